"""The command of a finished run registers its model, whenever an earlier start ended."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.options.train import TrainOptions
from pipelines.tracking.client import MlflowClient
from pipelines.tracking.trainings import describe_training
from pipelines.train import run_training
from sddusr.runs.run_folder import RunFolder
from tests.runs import LAST, run, with_train

PATIENCE_S = 200
"""Creating MLflow's database takes 2 s to 7 s, and a minute on a busy machine."""


@pytest.fixture
def killed_at_the_end(tiny_shards, tmp_path) -> TrainOptions:
    """The command of a run that was killed between its last checkpoint and its registration."""
    options = TrainOptions(
        data=tiny_shards.root,
        name="run",
        storage=str(tmp_path / "runs"),
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        tracking_wait_s=PATIENCE_S,
        config=with_train(validate_every=6),
    )
    folder = RunFolder(str(tmp_path / "runs" / "run"))
    describe_training(
        folder,
        str(options.tracking_uri),
        name="run",
        experiment=options.experiment,
        preset=options.preset,
        config=options.config,
        shards=tiny_shards,
        parent=None,
    )
    folder.set_state("running")
    progress, _ = run(tiny_shards, Path(folder.folder, "checkpoints"), options.config)
    folder.log_metrics(6, {"val/full_psnr": progress.best_score})
    return options


def test_a_finished_run_registers_each_name_that_is_asked_for_once(killed_at_the_end):
    asked = ["", "sddusr-demo", "sddusr-demo", "other", "sddusr-demo"]
    for name in asked:
        result = run_training(replace(killed_at_the_end, register_model=name))
        assert result.progress.step == 6
        assert (RunFolder(result.folder).model() is None) == (not name)
    client = MlflowClient(killed_at_the_end.tracking_uri)
    for name in ("sddusr-demo", "other"):
        (version,) = client.search_model_versions(f"name='{name}'")
        assert version.run_id == result.run_id
        assert version.tags["sddusr.checkpoint"] == LAST
        assert version.tags["sddusr.score"] == f"{result.progress.best_score:.4f}"
        assert client.get_model_version_by_alias(name, "best").version == version.version
    assert len(client.get_run(result.run_id).outputs.model_outputs) == 2
    assert client.get_run(result.run_id).info.status == "FINISHED"
