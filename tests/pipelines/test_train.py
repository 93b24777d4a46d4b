import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from ray.train import Result

from pipelines import train as pipeline
from pipelines.evaluate import EvaluateOptions, evaluate
from pipelines.ray_runtime.worker import Outcome
from pipelines.tracking.client import MlflowClient
from pipelines.tracking.links import read_run
from pipelines.train import TrainOptions, run_training
from sddusr.checkpoint import read_checkpoint
from sddusr.config import Config, DataConfig, OptimConfig, TrainConfig
from sddusr.data.folder_lock import LockedError, hold_lock
from sddusr.runs.run_folder import RunFolder
from tests.tiny import TINY

CONFIG = Config(
    model=replace(TINY, image_skip=True),
    optim=OptimConfig(lr=1e-3),
    data=DataConfig(crop_px=16, shift_px=(2, 8)),
    train=TrainConfig(num_steps=4, batch_size=2, log_every=2, validate_every=4, checkpoint_every=2),
)

FULL_OF_SIX = replace(CONFIG, train=replace(CONFIG.train, batch_size=6))

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def options(tiny_shards, tmp_path):
    return TrainOptions(
        data=tiny_shards.root,
        storage=str(tmp_path / "runs"),
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        workers="2",
        config=CONFIG,
    )


def test_the_chain_runs_through_ray_and_its_mlflow_run_reads_back(
    options, tiny_shards, tmp_path, monkeypatch
):
    result = run_training(options)
    assert result.progress.step == 4
    checkpoint = read_checkpoint(result.folder)
    assert checkpoint.config == CONFIG
    assert checkpoint.progress["data_hash"] == tiny_shards.content_hash
    rows = list(RunFolder(result.folder).rows())
    assert [row["step"] for row in rows if "train/total" in row] == [2, 4]
    assert [row["step"] for row in rows if "val/full_psnr" in row] == [4]

    evaluation = evaluate(
        EvaluateOptions(
            data=tiny_shards.root,
            checkpoint=result.folder,
            out=str(tmp_path / "results"),
            tracking_uri=options.tracking_uri,
        )
    )
    run = read_run(options.tracking_uri, result.run_id)
    check_links(options.tracking_uri, run, evaluation.run_id, tiny_shards)
    check_ray_result(result)
    assert run.info.status == "FINISHED"
    assert run.data.params["model.dictionary.num_tokens"] == "4"
    assert run.data.params["data_hash"] == tiny_shards.content_hash
    assert run.data.tags["sddusr.commit"]
    assert {
        "train/total",
        "train/learning_rate",
        "train/data_wait_share",
        "train/samples_per_s",
        "train/step_s",
        "val/full_psnr",
        "system/cpu_utilization_percentage",
    } <= run.data.metrics.keys()
    assert not any(key.startswith("test/") for key in run.data.metrics)  # the page shows curves
    client = MlflowClient(options.tracking_uri)
    history = client.get_metric_history(result.run_id, "train/total")
    assert [(point.step, point.value) for point in history] == [
        (row["step"], row["train/total"]) for row in rows if "train/total" in row
    ]
    pictures = [item.path for item in client.list_artifacts(result.run_id, "images")]
    for name in ("lr", "ref", "sr", "hr", "mask", "confidence"):
        assert any(f"val~val-0~{name}+step+4" in picture for picture in pictures)

    with monkeypatch.context() as without:  # the same command: nothing to do, the same run
        without.delattr(pipeline.cluster, "init_ray")
        assert run_training(options) == result
    assert len(client.get_metric_history(result.run_id, "train/total")) == 2
    other = replace(CONFIG, optim=OptimConfig(lr=2e-3))
    with pytest.raises(ValueError, match=r"optim\.lr was 0\.001, is 0\.002; take another --name"):
        run_training(replace(options, name=Path(result.folder).name, config=other))


def check_links(uri: str, run, evaluation_id: str, shards) -> None:
    """Data, model and evaluation belong to the run, and the scores to the model."""
    client, folder = MlflowClient(uri), shards.root.rpartition("/")[2]
    used = {each.dataset.name: each.tags[0].value for each in run.inputs.dataset_inputs}
    assert used == {f"{folder} train": "training", f"{folder} val": "validation"}
    child = client.get_run(evaluation_id)
    assert child.data.tags["mlflow.parentRunId"] == run.info.run_id
    assert child.data.metrics.keys() >= {"test/png8/SDDuSR/full_psnr"}
    (output,) = run.outputs.model_outputs
    (scored,) = child.inputs.model_inputs
    assert scored.model_id == output.model_id
    model = client.get_logged_model(output.model_id)
    on = {metric.key: metric.dataset_name for metric in model.metrics}
    assert on["val/full_psnr"] == f"{folder} val"
    assert on["test/png8/SDDuSR/full_psnr"] == f"{folder} test"
    assert not any("bicubic" in key for key in on)


def check_ray_result(result) -> None:
    """Ray's own object, and what Ray itself was told: where the checkpoints lie."""
    found = result.ray_result
    assert [metrics["step"] for _, metrics in found.best_checkpoints] == [2, 4]
    assert found.checkpoint.path == f"{result.folder}/checkpoints/step-00000004"
    assert set(found.metrics_dataframe["step"]) == {2, 4}
    told = json.loads(Path(result.folder, "checkpoint_manager_snapshot.json").read_text())
    names = [each["checkpoint_dir_name"] for each in told["checkpoint_results"]]
    assert names == ["checkpoints/step-00000002", "checkpoints/step-00000004"]
    assert found.path == Result.from_path(result.folder).path  # Ray reads the folder, too


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": "3", "config": FULL_OF_SIX}, r"--workers is 3, the cluster has 2 cores"),
        ({"gpu": True}, r"--workers is 2, the cluster has 0 GPUs; .*--gpu False"),
        ({"cpus_per_worker": 2}, r"no room for 2 workers of 2 cores; lower --workers"),
        (
            {"config": replace(CONFIG, train=replace(CONFIG.train, batch_size=1))},
            r"--workers is 2, more than --train\.batch-size 1; lower it",
        ),
        (
            {"config": replace(CONFIG, data=DataConfig(crop_px=128))},
            r"holds a crop of 64 px, the config wants 128; lower --data\.crop-px",
        ),
    ],
)
def test_what_cannot_run_is_refused_before_it_starts(options, changes, message):
    with pytest.raises(ValueError, match=message):
        run_training(replace(options, **changes))
    assert not Path(options.storage).exists()


def test_missing_weights_are_named_before_workers_start(options):
    matching = replace(TINY.matching, vgg_weights="no/vgg16.pth")
    config = replace(CONFIG, model=replace(TINY, matching=matching))
    where = re.escape(os.path.abspath("no/vgg16.pth"))
    with pytest.raises(FileNotFoundError, match=f"VGG16 weights: no file {where}"):
        run_training(replace(options, config=config))
    assert not Path(options.storage).exists()


def test_fresh_deletes_nothing_where_the_new_run_cannot_start(options):
    kept = Path(options.storage, "run", "status.json")
    kept.parent.mkdir(parents=True)
    kept.write_text("earlier")
    kept.with_name("mlflow.json").write_text('{"tracking_uri": "", "key": "k"}')
    config = replace(CONFIG, train=replace(CONFIG.train, init_from="no/such/run"))
    with pytest.raises(FileNotFoundError, match="no/such/run"):
        run_training(replace(options, name="run", fresh=True, config=config))
    assert kept.read_text() == "earlier"


@pytest.mark.parametrize("name", ["", ".", "..", "../mine", "mine/", "a:b", "{absolute}"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_name_that_is_a_path_is_refused_and_deletes_nothing(options, tmp_path, name, fresh):
    kept = tmp_path / "mine" / "thesis.tex"
    kept.parent.mkdir()
    kept.write_text("years of work")
    name = name.format(absolute=kept.parent)
    with pytest.raises(ValueError, match=r"--name is .*, need a plain name"):
        run_training(replace(options, name=name, fresh=fresh))
    assert kept.read_text() == "years of work"
    assert not Path(options.storage).exists()


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_is_no_run_is_left_alone(options, fresh):
    kept = Path(options.storage, "mine", "thesis.tex")
    kept.parent.mkdir(parents=True)
    kept.write_text("years of work")
    with pytest.raises(ValueError, match=r"holds 'thesis\.tex' and no run of ours"):
        run_training(replace(options, name="mine", fresh=fresh))
    assert [path.name for path in kept.parent.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("fresh", [False, True])
def test_a_second_start_of_a_run_is_refused_by_name_and_changes_nothing(options, tmp_path, fresh):
    kept = Path(options.storage, "run", "mlflow.json")
    kept.parent.mkdir(parents=True)
    kept.write_text('{"tracking_uri": "", "key": "k"}')
    place = str(Path(options.storage, ".run.lock"))
    with (
        hold_lock(place, "run"),
        pytest.raises(LockedError, match=r"run run in .*: another process is writing there"),
    ):
        run_training(replace(options, name="run", fresh=fresh))
    assert [path.name for path in kept.parent.iterdir()] == ["mlflow.json"]
    assert not (tmp_path / "mlflow.db").exists()  # no MLflow run is left RUNNING


@pytest.mark.long
def test_a_worker_hands_back_what_a_second_try_would_meet_again(options, tiny_shards, tmp_path):
    data = shutil.copytree(tiny_shards.root, tmp_path / "data")
    for shard in data.glob("train-*.parquet"):
        content = bytearray(shard.read_bytes())
        content[1000] ^= 1
        shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-0000\d\.parquet: row group 0 is damaged"):
        run_training(replace(options, data=str(data), workers="1"))
    (run,) = MlflowClient(options.tracking_uri).search_runs(["1"])
    assert run.info.status == "FAILED"


def test_a_non_finite_loss_ends_the_command_with_code_1(options, monkeypatch, caplog):
    def explode(_):
        Outcome(error="step 7, rank 0: total nan", non_finite=True).raise_error()

    monkeypatch.setattr(pipeline, "run_training", explode)
    assert pipeline.main(options) == 1
    assert "step 7, rank 0" in caplog.text
