"""What a run folder's files wait for, and what is given up."""

from pathlib import Path

import pytest

from pipelines.tracking import files
from pipelines.tracking.background import describe
from pipelines.tracking.client import BusyError, UnreachableError
from pipelines.tracking.mirror import Mirror
from sddusr.runs.run_folder import RunFolder
from tests.faults.fake_mlflow import FakeServer, replace_server

URI = "http://mlflow.example:5000"


@pytest.fixture
def server(monkeypatch) -> FakeServer:
    return replace_server(monkeypatch)


def a_run_with_a_model(tmp_path: Path) -> Mirror:
    """A run's mirror that has sent all but the model."""
    run = RunFolder(str(tmp_path / "run"))
    describe(run, URI, name="run", experiment="tests")
    run.register_model("net", "/checkpoint", {})
    mirror = Mirror(run, URI)
    mirror.sync()
    return mirror


def test_a_model_waits_for_its_metrics_however_often_it_is_tried(server, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_TRIES", 3)
    registered = []
    waits = iter(range(2 * files.MAX_TRIES))

    def register(client, run_id, run, entry, is_reported):
        if next(waits, None) is not None:
            raise BusyError("val/full_psnr of step 4 is not sent yet")
        registered.append(entry.name)

    monkeypatch.setattr(files, "register_model", register)
    mirror = a_run_with_a_model(tmp_path)
    uploads = files.FileMirror(mirror)
    for _ in range(2 * files.MAX_TRIES):
        with pytest.raises(BusyError, match="some files are tried again"):
            uploads.sync()
    uploads.sync()
    assert registered == ["net"]
    assert not mirror.problems


def test_a_model_that_fails_while_mlflow_answers_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_TRIES", 3)

    def register(*_):
        raise UnreachableError("internal error")

    monkeypatch.setattr(files, "register_model", register)
    mirror = a_run_with_a_model(tmp_path)
    uploads = files.FileMirror(mirror)
    for _ in range(files.MAX_TRIES - 1):
        with pytest.raises(BusyError):
            uploads.sync()
    uploads.sync()
    assert "not uploaded: internal error" in mirror.problems[f"model.json of {mirror.run.folder}"]
