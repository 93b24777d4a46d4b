"""MLflow becomes equal to a run folder, each row once and in order, whatever the server does."""

import json
import math
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from pipelines.tracking import background, client, files, metrics
from pipelines.tracking.background import BackgroundMirror, describe, mirrored
from pipelines.tracking.command import MirrorOptions, main
from pipelines.tracking.mirror import Mirror, noted_run
from sddusr import storage
from sddusr.cli.command_line import StoppedError
from sddusr.runs.checked_json import DamagedError
from sddusr.runs.run_folder import RunFolder
from tests.conftest import textured
from tests.faults.fake_mlflow import FakeServer, replace_server

PATIENCE_S = 200
"""Creating MLflow's database takes 2 s to 7 s, and a minute on a busy machine."""

URI = "http://mlflow.example:5000"


@pytest.fixture(autouse=True)
def in_haste(monkeypatch):
    for name in ("POLL_S", "BUCKET_POLL_S"):
        monkeypatch.setattr(background, name, 0.02)
    monkeypatch.setattr(background, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(background, "LONGEST_WAIT_S", 0.02)


@pytest.fixture
def server(monkeypatch) -> FakeServer:
    return replace_server(monkeypatch)


@pytest.fixture(params=["local", "bucket"])
def run(request, tmp_path) -> RunFolder:
    bucket = f"fsspec+memory://runs{tmp_path}"
    return described(str(tmp_path / "run") if request.param == "local" else bucket)


@pytest.fixture
def local_run(tmp_path) -> RunFolder:
    return described(str(tmp_path / "run"))


def described(folder: str, **given) -> RunFolder:
    run = RunFolder(folder)
    describe(run, URI, **{"name": "run", "experiment": "tests", **given})
    return run


def fill(run: RunFolder, steps: range) -> None:
    for step in steps:
        run.log_metrics(step, {"loss": 1 / (step + 1), "rate": step})


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


def rows(steps: range) -> list[tuple[int, float]]:
    return [(step, 1 / (step + 1)) for step in steps]


@pytest.mark.parametrize("seed", range(5))
def test_a_server_that_loses_40_percent_of_calls_and_answers_gets_each_row_once(
    server, local_run, seed
):
    """With as many metrics as a real run has: each failed call must not begin all over."""
    server.flaky = 0.4
    server._random.seed(seed)
    keys = [f"train/{number}" for number in range(20)]
    run = local_run
    describe(run, URI, name="run", experiment="tests", params={"a": 1, "b": [2]})
    with mirrored(run, URI):
        for step in range(60):
            run.log_metrics(step, {"loss": 1 / (step + 1), **dict.fromkeys(keys, step)})
            if step % 20 == 0:
                run.log_image(step, "val/x", textured(8, 8, step))
                time.sleep(0.05)
    assert server.points("loss") == rows(range(60))
    for key in keys:
        assert server.points(key) == [(step, step) for step in range(60)]
    found = server.only_run()
    assert found.params == {"a": "1", "b": "[2]"}
    assert found.info.status == "FINISHED"
    assert len(set(found.files)) == 2 * 3
    assert all("val~x+step+" in file for file in found.files)


def test_a_server_that_is_unreachable_for_the_whole_run_gets_it_later(server, run, caplog, capsys):
    server.away = True
    with mirrored(run, URI, wait_s=0.2):
        fill(run, range(30))
        run.log_image(3, "val/x", textured(8, 8, 3))
    assert noted_run(run.folder) == ""
    assert f"MLflow at {URI} is unreachable" in caplog.text
    command = f"upload it later with: python -m pipelines.tracking {run.folder}"
    assert command in caplog.text
    options = MirrorOptions(runs=(run.folder,), wait_s=0.1)
    with pytest.raises(OSError, match=f"MLflow at {URI} is unreachable"):
        main(options)
    server.away = False
    assert main(options) == 0
    assert f"complete in MLflow run run0 at {URI}" in capsys.readouterr().out
    assert main(options) == 0  # once more changes nothing
    assert server.points("loss") == rows(range(30))
    assert server.only_run().info.status == "FINISHED"
    assert len(server.only_run().files) == 2
    assert noted_run(run.folder) == "run0"


@pytest.mark.parametrize("status", [413, 500])
def test_metrics_arrive_though_every_file_is_refused(server, run, caplog, monkeypatch, status):
    monkeypatch.setattr(files, "MAX_TRIES", 4)
    server.artifact_status = status
    run.log_image(0, "val/x", textured(8, 8, 0))
    run.write_artifact("table.md", b"table")
    with mirrored(run, URI):
        fill(run, range(20))
    assert server.points("loss") == rows(range(20))
    assert server.only_run().info.status == "FINISHED"
    assert caplog.text.count(f"not uploaded: {status} from the artifact store") == 2
    assert main(MirrorOptions(runs=(run.folder,))) == 1
    server.artifact_status = 0
    assert main(MirrorOptions(runs=(run.folder,))) == 0
    assert len(server.only_run().files) == 3


def test_metrics_arrive_while_an_upload_hangs(server, local_run, monkeypatch):
    hanging = files.FileMirror._upload_artifact
    monkeypatch.setattr(files.FileMirror, "_upload_artifact", lambda *_: time.sleep(2))
    local_run.write_artifact("large", b"...")
    watched = BackgroundMirror(local_run, URI)
    fill(local_run, range(10))
    deadline = time.monotonic() + 1.5
    while not server.runs or len(server.points("loss")) < 10:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    monkeypatch.setattr(files.FileMirror, "_upload_artifact", hanging)
    assert watched.close()


def test_a_server_that_hangs_does_not_slow_who_logs(server, local_run):
    with mirrored(local_run, URI):
        server.delay = lambda: time.sleep(0.5)
        started = time.monotonic()
        for step in range(50):
            local_run.log_metrics(step, {f"metric{i}": step for i in range(10)})
        assert time.monotonic() - started < 2  # 50 calls of the server's would take 25 s
        server.delay = lambda: None
    assert server.points("metric9") == [(step, step) for step in range(50)]


def test_the_end_waits_no_longer_than_it_was_told(server, local_run):
    background_mirror = BackgroundMirror(local_run, URI)
    background_mirror.check()
    server.delay = lambda: time.sleep(3)
    fill(local_run, range(5))
    started = time.monotonic()
    assert not background_mirror.close(0.3)
    assert time.monotonic() - started < 1.5


def test_a_run_resumed_before_the_server_is_back_is_still_one_run(server, run):
    server.away = True
    for step in range(3):  # the process dies each time
        again = described(run.folder)
        again.log_metrics(step, {"loss": step})
        BackgroundMirror(again, URI).close(0.05)
    server.away = False
    assert background.mirror(run.folder, URI) == "run0"
    assert server.points("loss") == [(0, 0), (1, 1), (2, 2)]


def test_steps_that_a_resume_repeats_keep_their_first_value(server, run):
    for step in (1, 2, 3):
        run.log_metrics(step, {"loss": step})
    background.mirror(run.folder, URI)
    resumed = RunFolder(run.folder)
    for step in (2, 3, 4):
        resumed.log_metrics(step, {"loss": 10 * step, "new": step})
    background.mirror(run.folder, URI)
    assert server.points("loss") == [(1, 1), (2, 2), (3, 3), (4, 40)]
    assert server.points("new") == [(2, 2), (3, 3), (4, 4)]
    assert [row["loss"] for row in run.rows()] == [1, 20, 30, 40]


def test_a_row_that_is_added_to_a_step_arrives_too(server, run):
    with mirrored(run, URI):
        run.log_metrics(5, {"train/total": 1})
        while not server.runs or not server.points("train/total"):
            time.sleep(0.01)
        run.log_metrics(5, {"val/full_psnr": 30})
    assert server.points("val/full_psnr") == [(5, 30)]
    assert server.points("train/total") == [(5, 1)]


def test_a_folder_without_its_note_doubles_nothing(server, run):
    fill(run, range(5))
    run.log_image(1, "x", textured(8, 8, 0))
    background.mirror(run.folder, URI)
    storage.remove(run.place("mlflow.json"))
    background.mirror(run.folder, URI)
    assert server.points("loss") == rows(range(5))
    assert len(server.only_run().files) == 2


def test_a_fresh_run_of_the_same_name_is_another_run(server, run):
    fill(run, range(2))
    first = background.mirror(run.folder, URI)
    storage.remove_folder(run.folder)
    again = described(run.folder)
    again.log_metrics(1, {"loss": 7})
    second = background.mirror(run.folder, URI)
    assert second != first
    assert [point.value for point in server.runs[second].metrics] == [7]


def test_a_long_backlog_goes_in_few_calls(server, local_run, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for step in range(400):
        local_run.log_metrics(step, {"a": step, "b": step, "c": step})
    background.mirror(local_run.folder, URI)
    assert len(server.points("a")) == len(server.points("c")) == 400
    assert server.num_calls < 20


def test_one_refused_metric_is_named_and_the_others_arrive(server, run, caplog):
    server.refused = {"bad"}
    for step in range(30):
        run.log_metrics(step, {"bad" if step == 20 else "good": step})
    background.mirror(run.folder, URI)
    assert [step for step, _ in server.points("good")] == [*range(20), *range(21, 30)]
    assert caplog.text.count("bad of step 20: refused: invalid metric") == 1
    server.refused = set()
    assert main(MirrorOptions(runs=(run.folder,))) == 0
    assert server.points("bad") == [(20, 20)]


def test_a_metric_that_breaks_the_server_each_time_holds_up_the_others_for_a_while_only(
    server, local_run, monkeypatch, caplog
):
    monkeypatch.setattr(metrics, "MAX_TRIES", 5)
    server.breaking = {"bad"}
    for step in range(30):
        local_run.log_metrics(step, {"bad" if step == 20 else "good": step})
    background.mirror(local_run.folder, URI)
    assert [step for step, _ in server.points("good")] == [*range(20), *range(21, 30)]
    assert "bad of step 20: refused: internal error" in caplog.text


def test_what_is_not_finite_stays_in_the_folder_and_is_named(server, local_run, caplog):
    local_run.log_metrics(1, {"loss": math.nan, "psnr": math.inf, "rate": 1})
    background.mirror(local_run.folder, URI)
    assert server.points("rate") == [(1, 1)]
    assert server.points("loss") == server.points("psnr") == []
    assert "loss of step 1: it is nan" in caplog.text
    assert "psnr of step 1: it is inf" in caplog.text


@pytest.mark.parametrize("seed", range(8))
def test_damaged_run_folders_are_named_and_hold_up_nothing(server, tmp_path, caplog, seed):
    rng = random.Random(seed)
    run = described(str(tmp_path / "run"))
    fill(run, range(10))
    run.log_image(0, "x", textured(8, 8, 0))
    run.set_state("finished")
    background.mirror(run.folder, URI)
    server.runs.clear()
    paths = [path for path in Path(run.folder).rglob("*") if path.is_file() and path.stat().st_size]
    hit = rng.choice(sorted(paths))
    content = bytearray(hit.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    hit.write_bytes(content[: rng.randrange(len(content))] if seed % 2 else content)
    caplog.clear()
    if hit.name == "config.json":
        with pytest.raises(DamagedError, match=f"{hit}: damaged"):
            main(MirrorOptions(runs=(run.folder,)))
        return
    code = main(MirrorOptions(runs=(run.folder,)))
    is_named = hit.name in caplog.text
    lost = [int(hit.stem)] if hit.suffix == ".jsonl" and is_named else []
    assert [step for step, _ in server.points("loss")] == [k for k in range(10) if k not in lost]
    assert code == (1 if is_named else 0)
    assert is_named or hit.suffix == ".png" or hit.name == "mlflow.json"  # a changed pixel


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json: no such file; give a run's folder"):
        main(MirrorOptions(runs=(str(tmp_path),)))


def test_a_disk_that_is_full_ends_the_run_with_its_reason(server, local_run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    def log_until_full() -> None:
        with mirrored(local_run, URI):
            fill(local_run, range(3))
            with monkeypatch.context() as without_space:
                without_space.setattr(storage, "write_atomic", full)
                fill(local_run, range(3, 4))

    with pytest.raises(OSError, match="No space left"):
        log_until_full()
    assert server.points("loss") == rows(range(3))
    assert server.only_run().info.status == "FAILED"
    assert local_run.status().reason == "[Errno 28] No space left on device"


def test_a_run_that_was_asked_to_end_waits_to_be_resumed(server, run):
    run.log_metrics(1, {"loss": 0.5})
    with pytest.raises(StoppedError), mirrored(run, URI):
        raise StoppedError("stopped; the same command resumes", 15)
    assert run.status().state == "paused"
    assert server.only_run().info.status == "KILLED"
    with mirrored(run, URI):
        run.log_metrics(2, {"loss": 0.25})
    assert server.only_run().info.status == "FINISHED"


def test_a_search_is_one_run_with_a_child_for_each_trial(server, tmp_path):
    search = described(str(tmp_path / "search"), name="search")
    with mirrored(search, URI):
        for number in range(3):
            trial = described(f"{search.folder}/trials/{number:04d}", name=f"trial {number}")
            trial.set_state("running")
            fill(trial, range(4))
            trial.log_image(0, "x", textured(8, 8, 0))
            trial.end("failed" if number == 1 else "finished", "out of memory" * (number == 1))
    parent, *children = server.runs.values()
    for child in children:
        assert child.tags["mlflow.parentRunId"] == parent.info.run_id
        assert [point.step for point in child.metrics if point.key == "loss"] == [0, 1, 2, 3]
        assert len(child.files) == 2
    assert [child.info.status for child in children] == ["FINISHED", "FAILED", "FINISHED"]
    assert children[1].tags["sddusr.reason"] == "out of memory"


def test_a_model_that_is_asked_for_during_a_pass_is_registered_by_the_next(
    server, tmp_path, monkeypatch
):
    registered = []
    monkeypatch.setattr(files, "register_model", lambda *given: registered.append(given[3].name))
    search = Mirror(described(str(tmp_path / "search")), URI)
    trial = described(f"{search.run.folder}/trials/0000")
    trial.write_artifact("large", b"...")
    trial.end("finished")
    of_trial = Mirror(trial, URI, search)
    of_trial.sync()
    upload = files.FileMirror._upload_artifact

    def ask_meanwhile(self, name: str, place: str) -> None:
        upload(self, name, place)
        trial.register_model("late", "/checkpoint", {})

    monkeypatch.setattr(files.FileMirror, "_upload_artifact", ask_meanwhile)
    uploads = files.FileMirror(of_trial)
    uploads.sync()
    assert registered == []
    for _ in range(2):
        uploads.sync()
    assert registered == ["late"]


def test_two_processes_never_mirror_one_folder_at_a_time(server, local_run):
    fill(local_run, range(3))
    first = BackgroundMirror(local_run, URI)
    first.check()
    second = BackgroundMirror(local_run, URI)
    second.check()
    assert not second.close(0.1)
    assert first.close()
    assert background.mirror(local_run.folder, URI) == "run0"
    assert server.points("loss") == rows(range(3))


@pytest.mark.parametrize("uri", ["nosuch://server", "http:/", "postgresql+nosuch://a/b"])
def test_a_store_that_cannot_be_used_is_refused_at_the_start(uri, local_run):
    with (
        pytest.raises(ValueError, match=r"cannot be used: .* give another --tracking-uri"),
        mirrored(local_run, uri),
    ):
        pass


def test_a_deleted_experiment_is_refused_at_the_start_with_both_remedies(server, local_run):
    background.mirror(local_run.folder, URI)
    server.runs.clear()
    server.deleted.add("tests")
    with (
        pytest.raises(ValueError, match=r"'tests' was deleted .*restore .* another --experiment"),
        mirrored(local_run, URI),
    ):
        pass


def test_a_run_deleted_meanwhile_is_reported_once_and_sent_when_it_is_restored(
    server, local_run, caplog
):
    with mirrored(local_run, URI) as mirror:
        fill(local_run, range(3))
        wait_until(lambda: len(server.points("loss")) == 3)
        server.only_run().info.lifecycle_stage = "deleted"
        local_run.log_image(3, "sr", np.zeros((40, 40, 3), np.uint8))
        for step in range(3, 9):
            fill(local_run, range(step, step + 1))
            time.sleep(0.05)
        wait_until(lambda: mirror.error is not None)
        assert len([line for line in caplog.messages if "was deleted there" in line]) == 1
        server.only_run().info.lifecycle_stage = "active"
    assert server.points("loss") == rows(range(9))
    assert "mlflow.loggedImages" in server.only_run().tags
    assert not mirror.problems


def test_a_database_of_another_version_is_refused_with_the_command_that_upgrades_it(
    tmp_path, local_run
):
    made, other = tmp_path / "made.db", tmp_path / "other.db"
    client.MlflowClient(f"sqlite:///{made}").search_experiments()
    shutil.copy(made, other)  # MLflow looks once for each URI
    with closing(sqlite3.connect(other)) as database:
        database.execute("UPDATE alembic_version SET version_num = '0a8213491aaa'")
        database.commit()
    with (
        pytest.raises(ValueError, match=r"cannot be used: .*mlflow db upgrade"),
        mirrored(local_run, f"sqlite:///{other}"),
    ):
        pass


def test_sqlite_takes_the_same_folder_twice_without_a_trace(tmp_path):
    uri, run = f"sqlite:///{tmp_path}/mlflow.db", RunFolder(str(tmp_path / "run"))
    params = {f"p{i}": "v" * 5000 if i == 0 else i for i in range(150)}
    describe(run, uri, name="run", experiment="tests", params=params, tags={"tag": "x"})
    run.log_metrics(1, {"loss": 1, "odd (name)": 2})
    run.log_metrics(2, {"loss": 2})
    run.log_image(1, "val/x", textured(8, 300, 0))
    run.write_artifact("tables/table.txt", b"1")
    run.link_artifacts({"code/test_mirror.py": __file__})
    run.set_state("finished")
    run_id = background.mirror(run.folder, uri, PATIENCE_S)
    store = client.MlflowClient(uri)

    def everything() -> list:
        read = store.get_run(run_id)
        history = [(p.step, p.value) for p in store.get_metric_history(run_id, "loss")]
        names = [
            item.path
            for folder in ("images", "tables", "code")
            for item in store.list_artifacts(run_id, folder)
        ]
        return [history, read.data.params, sorted(names), read.info.status, read.data.tags]

    before = everything()
    assert before[0] == [(1, 1), (2, 2)]
    assert (len(before[1]), before[3]) == (150, "FINISHED")
    assert store.get_metric_history(run_id, "odd -name-")[0].value == 2
    assert len([name for name in before[2] if name.startswith("images/val~x+step+1+")]) == 2
    assert {"tables/table.txt", "code/test_mirror.py"} <= set(before[2])
    Path(run.folder, "mlflow.json").unlink()  # as if no answer had ever come
    assert background.mirror(run.folder, uri, PATIENCE_S) == run_id
    assert everything() == before


def test_what_was_uploaded_is_noted_and_changed_files_are_sent_again(server, run):
    run.write_artifact("table.md", b"old")
    background.mirror(run.folder, URI)
    background.mirror(run.folder, URI)
    assert server.only_run().files == ["None/table.md"]
    run.write_artifact("table.md", b"new")
    background.mirror(run.folder, URI)
    assert server.only_run().files == ["None/table.md"] * 2
    noted = json.loads(storage.read_bytes(run.place("mlflow.json")))
    assert noted["artifacts"].keys() == {"table.md"}


def test_a_torn_image_is_named_and_holds_up_nothing(server, local_run, caplog):
    local_run.log_image(1, "sr", np.zeros((40, 40, 3), np.uint8))
    (path,) = Path(local_run.folder, "images").rglob("*.png")
    path.write_bytes(path.read_bytes()[:60])
    fill(local_run, range(2))
    background.mirror(local_run.folder, URI)
    assert server.points("loss") == rows(range(2))
    assert "0000000001/sr.png" in caplog.text
