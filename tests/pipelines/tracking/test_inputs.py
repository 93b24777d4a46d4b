"""Datasets, evaluations and models are linked in MLflow as the folders say, each link once."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipelines.tracking import links, trainings
from pipelines.tracking.background import describe, mirror, mirrored
from pipelines.tracking.client import MlflowClient
from pipelines.tracking.command import MirrorOptions, main
from pipelines.tracking.evaluations import describe_evaluation, origin_of
from pipelines.tracking.links import PARENT_TAG, code_version, source_tags
from sddusr import storage
from sddusr.checkpoint import Checkpoint
from sddusr.config import Config
from sddusr.runs.inputs import RunInputs, datasets_of
from sddusr.runs.run_folder import RunFolder
from sddusr.training.loop import Progress
from tests.faults.fake_mlflow import FakeServer, replace_server

URI = "http://mlflow.example:5000"

PATIENCE_S = 200


@pytest.fixture
def server(monkeypatch) -> FakeServer:
    return replace_server(monkeypatch)


def train(tmp_path, shards, uri=URI) -> RunFolder:
    run = RunFolder(str(tmp_path / "run"))
    inputs = RunInputs(datasets=datasets_of(shards, ("train", "val")))
    describe(run, uri, name="run", experiment="tests", params={"seed": 0}, inputs=inputs)
    run.log_metrics(2, {"train/total": 0.5, "train/step_s": 1})
    run.log_metrics(4, {"train/total": 0.25, "train/step_s": 1})
    run.add_metrics(4, {"val/full_psnr": 30.0})
    run.set_state("finished")
    return run


def checkpoint_of(run: RunFolder) -> Checkpoint:
    return Checkpoint(
        place=f"{run.folder}/checkpoints/step-00000004",
        config=Config(),
        progress={"step": 4},
        model_state={},
        train_state=None,
    )


def evaluate(tmp_path, shards, training: RunFolder, uri=URI, psnr=29.0, **params) -> RunFolder:
    run = RunFolder(str(tmp_path / "out"))
    describe_evaluation(
        run,
        uri,
        experiment="elsewhere",
        shards=shards,
        split="test",
        checkpoint=checkpoint_of(training),
        params=params,
        metrics=["test/png8/SDDuSR/full_psnr"],
    )
    scores = {"test/png8/SDDuSR/full_psnr": psnr, "test/png8/bicubic/full_psnr": 25.0}
    run.log_metrics(4, scores)
    run.set_state("finished")
    return run


def described(run) -> list[tuple[str, str, str]]:
    return [
        (known.dataset.name, known.dataset.digest, known.tags[0].value)
        for known in run.inputs.dataset_inputs
    ]


def expected(shards, *uses: tuple[str, str]) -> list[tuple[str, str, str]]:
    folder = shards.root.rpartition("/")[2]
    return [(f"{folder} {split}", shards.content_hash[:36], use) for split, use in uses]


@pytest.mark.parametrize("seed", range(4))
def test_datasets_arrive_once_though_calls_and_answers_are_lost(
    server, tiny_shards, tmp_path, seed
):
    server.flaky = 0.5
    server._random.seed(seed)
    run = train(tmp_path, tiny_shards)
    with mirrored(run, URI):
        pass
    mirror(run.folder, URI)
    found = server.only_run()
    assert described(found) == expected(tiny_shards, ("train", "training"), ("val", "validation"))
    assert found.info.status == "FINISHED"


def test_an_evaluation_waits_for_its_training_run_and_is_then_shown_below_it(
    server, tiny_shards, tmp_path, capsys
):
    server.away = True
    training = train(tmp_path, tiny_shards)
    mirror(training.folder, URI, 0.05)
    evaluation = evaluate(tmp_path, tiny_shards, training)
    mirror(evaluation.folder, URI, 0.05)
    server.away = False
    assert main(MirrorOptions(runs=(evaluation.folder,))) == 1  # the training run is missing yet
    assert PARENT_TAG not in server.runs["run0"].tags
    options = MirrorOptions(runs=(evaluation.folder, training.folder))  # in any order
    for _ in range(2):
        assert main(options) == 0
    child, parent = server.runs.values()
    assert child.tags[PARENT_TAG] == parent.info.run_id == "run1"
    assert described(child) == expected(tiny_shards, ("test", "test"))
    assert [point.key for point in parent.metrics if point.key.startswith("test/")] == []
    assert child.inputs.model_inputs == []  # no model was registered

    server.models["m-1"] = SimpleNamespace(
        model_id="m-1",
        source_run_id="run1",
        tags={"sddusr.checkpoint": "step-00000004"},
        status="READY",
        metrics=[],
    )
    for _ in range(2):
        assert main(options) == 0
    assert [model.model_id for model in child.inputs.model_inputs] == ["m-1"]
    (score,) = server.models["m-1"].metrics  # its own, bicubic's are not
    assert (score.key, score.value, score.step) == ("test/png8/SDDuSR/full_psnr", 29.0, 4)
    assert score.dataset_name == expected(tiny_shards, ("test", "test"))[0][0]


def test_an_evaluation_with_other_options_in_the_same_folder_is_another_run(
    server, tiny_shards, tmp_path
):
    training = train(tmp_path, tiny_shards)
    mirror(training.folder, URI)
    for trust in (1.0, 1.0, 0.5):
        run = evaluate(tmp_path, tiny_shards, training, psnr=28 + trust, trust=trust)
        mirror(run.folder, URI)
    assert len(server.runs) == 3
    values = [[point.value for point in run.metrics] for run in list(server.runs.values())[1:]]
    assert values == [[29.0, 25.0], [28.5, 25.0]]


def test_a_network_from_elsewhere_is_scored_in_a_run_that_misses_nothing(
    server, tiny_shards, tmp_path
):
    training = RunFolder(str(tmp_path / "nowhere"))
    place = str(tmp_path / "compact")
    run = RunFolder(str(tmp_path / "out"))
    found = replace(checkpoint_of(training), place=place, progress={"tracking_run": "gone"})
    describe_evaluation(
        run,
        URI,
        experiment="tests",
        shards=tiny_shards,
        split="test",
        checkpoint=found,
        params={},
        metrics=[],
    )
    run.set_state("finished")
    assert main(MirrorOptions(runs=(run.folder,))) == 0
    assert PARENT_TAG not in server.only_run().tags


def test_a_run_below_a_uri_with_a_query_is_found_again(
    server, tiny_shards, secret_bucket, monkeypatch
):
    run = RunFolder(storage.join(secret_bucket, "run"))
    describe(run, URI, name="run", experiment="tests")
    place = run.place("checkpoints", "step-00000004")
    origin = origin_of(replace(checkpoint_of(run), place=place), ())
    config = run.config()
    assert config is not None
    assert (origin.checkpoint, origin.key) == ("step-00000004", config.key)
    monkeypatch.setattr(trainings, "resolve", lambda _: place)
    trainings.register_best(run, "model", Progress(step=4, data_hash=""), tiny_shards)
    model = run.model()
    assert model is not None
    assert model.tags == {"sddusr.checkpoint": "step-00000004"}


def test_damaged_inputs_are_named_and_hold_up_nothing(server, tiny_shards, tmp_path, caplog):
    run = train(tmp_path, tiny_shards)
    with open(run.place("inputs.json"), "a") as file:
        file.write("x")
    assert main(MirrorOptions(runs=(run.folder,))) == 1
    assert "inputs.json: damaged" in caplog.text
    assert server.points("val/full_psnr") == [(4, 30.0)]


def test_a_real_store_shows_datasets_and_finds_their_files_again(tiny_shards, tmp_path):
    from mlflow import data

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run = train(tmp_path, tiny_shards, uri)
    store = MlflowClient(uri)
    for _ in range(2):
        run_id = mirror(run.folder, uri, PATIENCE_S)
        found = store.get_run(run_id)
        assert sorted(described(found)) == expected(
            tiny_shards, ("train", "training"), ("val", "validation")
        )
    entry = found.inputs.dataset_inputs[0]
    assert data.get_source(entry).load() == tiny_shards.root
    assert json.loads(entry.dataset.profile)["num_rows"] in (7, 2)
    columns = json.loads(entry.dataset.schema)["mlflow_colspec"]
    assert {"name": "lr", "type": "binary", "required": True} in columns


def test_without_git_a_run_names_the_version_of_the_code(monkeypatch):
    links.git_commit.cache_clear()
    monkeypatch.setenv("PATH", "")
    try:
        tags = source_tags()
    finally:
        links.git_commit.cache_clear()
    assert tags["sddusr.commit"].startswith("sddusr")
    assert "mlflow.source.git.commit" not in tags
    assert "unknown" not in str(tags)
    monkeypatch.undo()
    assert code_version()


def test_a_checkout_that_nobody_installed_is_named_by_its_files(monkeypatch):
    def missing(name):
        raise links.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(links.metadata, "version", missing)
    links._package_version.cache_clear()
    try:
        assert links._package_version().startswith("sddusr, files ")
    finally:
        links._package_version.cache_clear()
