"""A registered model gives its checkpoint's pictures, without unpickling anything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.tracking.background import describe, mirror
from pipelines.tracking.client import MlflowClient
from pipelines.tracking.links import DATA_TAG, SCORE_TAG
from pipelines.tracking.model_uris import local_checkpoint
from sddusr import pretrained
from sddusr.checkpoint import load_model, write_checkpoint
from sddusr.config import Config
from sddusr.geometry.box import Box
from sddusr.inference import super_resolve
from sddusr.model.sddusr import SDDuSR
from sddusr.runs.inputs import RunInputs, datasets_of
from sddusr.runs.run_folder import RunFolder
from tests.conftest import make_triplet
from tests.tiny import TINY, without_zero_starts

LOADING = """
import sys, warnings
import numpy as np
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow
uri, out = sys.argv[1:]
mlflow.set_tracking_uri(uri)
model = mlflow.pyfunc.load_model("models:/sddusr-tiny/1")
given = dict(np.load(out + ".npz"))
box = [int(edge) for edge in given.pop("box")]
np.save(out, model.predict(given, params={"box": box}))
np.save(out + ".found", model.predict(given))
import sddusr
print(sddusr.__file__)
"""


@pytest.fixture
def checkpoint(tmp_path) -> str:
    torch.manual_seed(0)
    model = without_zero_starts(SDDuSR(TINY))
    place = str(tmp_path / "run" / "checkpoints" / "step-00000004")
    write_checkpoint(
        place,
        config=Config(model=TINY),
        progress={"step": 4},
        model_state=model.state_dict(),
        train_state=None,
    )
    return place


def registered(tmp_path, checkpoint, shards, uri) -> str:
    """The MLflow run whose checkpoint of step 4 was registered; the second time, all is there."""
    run = RunFolder(str(tmp_path / "run"))
    for number in range(2):
        describe(
            run,
            uri,
            name="run",
            experiment="sddusr",
            params={"optim.lr": 0.001},
            inputs=RunInputs(datasets=datasets_of(shards, ("train", "val"))),
        )
        for step in (2, 4):
            run.log_metrics(step, {"train/total": 1 / step, "system/cpu": 50 + number})
        run.add_metrics(4, {"val/full_psnr": 30.5})
        tags = {"sddusr.checkpoint": "step-00000004", SCORE_TAG: "30.5", DATA_TAG: "d"}
        run.register_model("sddusr-tiny", checkpoint, tags)
        run.set_state("finished")
        run_id = mirror(run.folder, uri)
    return run_id


def assert_linked(client, run_id, logged, shards) -> None:
    """The model is the run's output, with the metrics of its step, each on its data, once."""
    outputs = client.get_run(run_id).outputs.model_outputs
    assert [(output.model_id, output.step) for output in outputs] == [(logged.model_id, 4)]
    folder = shards.root.rpartition("/")[2]
    found = client.get_logged_model(logged.model_id)
    assert sorted((m.key, m.value, m.step, m.dataset_name) for m in found.metrics) == [
        ("train/total", 0.25, 4, f"{folder} train"),
        ("val/full_psnr", 30.5, 4, f"{folder} val"),
    ]
    assert found.params == {"optim.lr": "0.001"}
    assert found.tags["mlflow.note.content"].startswith("Makes a wide-angle image twice as large")
    noted = json.loads(found.tags["mlflow.modelVersions"])  # its page names the version
    assert noted == [{"name": "sddusr-tiny", "version": "1"}]
    for key, number in (("train/total", 2), ("val/full_psnr", 1)):
        assert len(client.get_metric_history(run_id, key)) == number


@pytest.mark.long
def test_a_registered_model_gives_its_checkpoints_picture(tmp_path, checkpoint, tiny_shards):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run_id = registered(tmp_path, checkpoint, tiny_shards, uri)
    client = MlflowClient(uri)
    (version,) = client.search_model_versions("name='sddusr-tiny'")
    assert version.run_id == run_id
    (logged,) = client.search_logged_models([client.get_run(run_id).info.experiment_id])
    assert_linked(client, run_id, logged, tiny_shards)
    assert "| val/full_psnr | 30.5 |" in version.description
    assert client.get_registered_model("sddusr-tiny").description == version.description
    files = [path for path in Path(logged.artifact_location[7:]).rglob("*") if path.is_file()]
    assert any(path.name == "model.safetensors" for path in files)
    assert not any(path.suffix in (".pkl", ".pt", ".pth", ".pyc") for path in files)

    model_folder = next(path.parent for path in map(Path, files) if path.name == "MLmodel")
    example = json.loads((model_folder / "serving_input_example.json").read_text())
    assert example["params"] == {"box": [16, 48, 20, 60]}
    assert np.shape(example["inputs"]["wide"]) == (32, 40, 3)

    triplet = make_triplet(lr_shape=(96, 108), box=Box(48, 144, 54, 162))
    out = str(tmp_path / "sr.npy")
    np.savez(out, wide=triplet.lr, tele=triplet.ref, box=np.array(triplet.center_box))
    env = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "OMP_NUM_THREADS": "1"}
    loaded = subprocess.run(  # elsewhere, so that the code is the model's own
        [sys.executable, "-P", "-c", LOADING, uri, out],
        cwd=tmp_path,
        env={name: value for name, value in env.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert loaded.returncode == 0, loaded.stderr
    assert logged.model_id in loaded.stdout
    expected = super_resolve(
        load_model(checkpoint), triplet.lr, triplet.ref, triplet.center_box, dtype=np.uint8
    )
    difference = np.load(out).astype(int) - expected.sr
    assert np.abs(difference).max() <= 1  # other threads, other sums
    found = np.load(f"{out}.found.npy")  # without a box: the tele picture was registered
    assert found.shape == expected.sr.shape
    assert np.abs(found.astype(int) - expected.sr).mean() < 3


def test_commands_take_the_best_model_by_its_name_in_mlflow(tmp_path, checkpoint):
    from mlflow import artifacts

    uri, data = f"sqlite:///{tmp_path}/mlflow.db", {DATA_TAG: "d"}
    scores = {"good": data | {SCORE_TAG: "30.5"}, "worse": data | {SCORE_TAG: "29.0"}}
    run_ids = {}
    for name, tags in scores.items():
        run = RunFolder(str(tmp_path / name))
        describe(run, uri, name=name, experiment="sddusr")
        run.register_model("sddusr-tiny", checkpoint, tags)
        run_ids[name] = mirror(run.folder, uri)
    client = MlflowClient(uri)
    best = client.get_model_version_by_alias("sddusr-tiny", "best")
    assert best.run_id == run_ids["good"]
    expected = load_model(checkpoint).state_dict()
    for named in (
        "models:/sddusr-tiny@best",
        "models:/sddusr-tiny/2",
        "models:/sddusr-tiny/latest",
        f"runs:/{run_ids['good']}/sddusr-tiny",
    ):
        place = local_checkpoint(named, uri, tmp_path / "cache")
        loaded = load_model(place).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in expected.items())
        assert local_checkpoint(named, uri, tmp_path / "cache") == place  # again, over the last one
    assert local_checkpoint(checkpoint, uri) == checkpoint
    assert local_checkpoint("compact", uri) == pretrained.COMPACT
    with pytest.raises(ValueError, match=r"models:/nobody@best: MLflow at sqlite:.* no such model"):
        local_checkpoint("models:/nobody@best", uri, tmp_path / "cache")
    with pytest.raises(
        ValueError, match=r"only the commands in pipelines/ ask MLflow.* --dst-path"
    ):
        load_model("models:/sddusr-tiny@best")
    model = client.get_model_version_download_uri("sddusr-tiny", best.version)
    folder = artifacts.download_artifacts(model, dst_path=str(tmp_path / "DIR"), tracking_uri=uri)
    loaded = load_model(f"{folder}/data/sddusr").state_dict()  # the folder that the message names
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())
