"""`python -m pipelines.tracking RUN...` uploads what can be, and says of the rest what it is."""

import time
from pathlib import Path

import pytest

from pipelines.tracking import background
from pipelines.tracking.background import BackgroundMirror, describe
from pipelines.tracking.command import MirrorOptions, main
from sddusr.runs.run_folder import RunFolder
from tests.faults.fake_mlflow import FakeServer, replace_server

URI = "http://mlflow.example:5000"


@pytest.fixture
def server(monkeypatch) -> FakeServer:
    return replace_server(monkeypatch)


@pytest.fixture
def runs(tmp_path) -> list[RunFolder]:
    """Three runs that were never uploaded, a, b and c, between what is no run."""
    for name in ("aa-samples", "bb-demo"):
        (tmp_path / name).mkdir()
    (tmp_path / "mlflow.db").write_text("a file")
    runs = [RunFolder(str(tmp_path / name)) for name in "abc"]
    for run in runs:
        describe(run, URI, name=Path(run.folder).name, experiment="tests")
        run.log_metrics(1, {"loss": 0.5})
        run.set_state("finished")
    return runs


def all_in(folder: Path, wait_s: float = 60.0) -> MirrorOptions:
    """As a shell makes it of FOLDER/*."""
    return MirrorOptions(runs=tuple(map(str, sorted(folder.iterdir()))), wait_s=wait_s)


def states_in(server: FakeServer) -> list[str]:
    return [run.info.status for run in server.runs.values()]


def test_what_is_no_run_is_skipped_with_a_warning(server, runs, tmp_path, caplog):
    assert main(all_in(tmp_path)) == 0
    assert states_in(server) == ["FINISHED"] * 3
    skipped = [line for line in caplog.messages if line.startswith("Skipping")]
    assert len(skipped) == 3
    for name, line in zip(("aa-samples", "bb-demo", "mlflow.db"), skipped, strict=True):
        assert f"{tmp_path / name}/config.json: no such file" in line


def test_folders_of_which_none_is_a_run_are_refused(server, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    with pytest.raises(FileNotFoundError, match="none of the 2 folders is a run's"):
        main(all_in(tmp_path))


def test_a_run_that_fails_does_not_stop_the_others(server, runs, tmp_path, caplog):
    damaged = Path(runs[0].place("config.json"))
    damaged.write_text(damaged.read_text().replace("tests", "other"))
    describe(runs[1], URI, name="b", experiment="gone")
    server.experiments["gone"] = "7"
    server.deleted.add("gone")
    assert main(all_in(tmp_path)) == 1
    assert states_in(server) == ["FINISHED"]
    assert f"{runs[0].folder}: {damaged}: damaged" in caplog.text
    assert f"{runs[1].folder}: MLflow at {URI} cannot be used: experiment 'gone'" in caplog.text


def test_a_server_that_is_unreachable_is_waited_for_once(server, runs, tmp_path, caplog):
    server.away = True
    started = time.monotonic()
    assert main(all_in(tmp_path, wait_s=3.0)) == 1
    assert 3 < time.monotonic() - started < 9
    for run in runs:
        assert f"{run.folder}: MLflow at {URI} is unreachable (connection refused)" in caplog.text


def test_a_run_that_another_process_mirrors_is_busy(server, runs, tmp_path, caplog):
    other = BackgroundMirror(runs[0], URI)
    other.check()
    assert main(all_in(tmp_path, wait_s=0.1)) == 1
    assert f"{runs[0].folder}: another process mirrors this run" in caplog.messages
    assert "unreachable" not in caplog.text
    assert states_in(server) == ["FINISHED"] * 3
    with pytest.raises(OSError, match=r"^another process mirrors this run$"):
        main(MirrorOptions(runs=(runs[0].folder,), wait_s=0.1))
    assert other.close()
    assert main(all_in(tmp_path)) == 0


def test_a_run_that_was_deleted_meanwhile_is_named_as_such(
    server, runs, tmp_path, caplog, monkeypatch
):
    first = background.mirror(runs[0].folder, URI)
    find = background.Mirror._is_known  # deleted after it was found

    def found_then_deleted(self, run_id: str) -> bool:
        is_known = find(self, run_id)
        if run_id == first:
            server.runs[first].info.lifecycle_stage = "deleted"
        return is_known

    monkeypatch.setattr(background.Mirror, "_is_known", found_then_deleted)
    assert main(all_in(tmp_path, wait_s=0.1)) == 1
    assert (
        f"{runs[0].folder}: MLflow at {URI} takes nothing (run {first} was deleted" in caplog.text
    )
    assert "unreachable" not in caplog.text
    assert states_in(server)[1:] == ["FINISHED"] * 2


def test_a_folder_that_cannot_be_mirrored_is_not_called_complete(server, runs, monkeypatch, capsys):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(background.Mirror, "_take_lock", refuse)
    monkeypatch.setattr(background, "START_WAIT_S", 0.2)
    with pytest.raises(OSError, match=r"folder cannot be mirrored .*Permission denied"):
        main(MirrorOptions(runs=(runs[0].folder,), wait_s=0.5))
    assert "complete" not in capsys.readouterr().out
