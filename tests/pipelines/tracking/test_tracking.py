"""What is logged arrives once and in order, whatever the MLflow server does meanwhile."""

import json
import logging
import math
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines import tracking
from pipelines.tracking import (
    DeliverOptions,
    courier,
    deliver,
    follow_run,
    join_run,
    open_run,
    store,
    tracked_run,
)
from pipelines.tracking.spool import Spool
from sddusr import storage
from tests.conftest import textured
from tests.faults.fake_mlflow import FakeServer

URI = "http://mlflow.example:5000"


@pytest.fixture(autouse=True)
def in_haste(monkeypatch, tmp_path):
    monkeypatch.setattr(courier, "POLL_S", 0.02)
    monkeypatch.setattr(courier, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(courier, "LONGEST_WAIT_S", 0.02)
    monkeypatch.setenv("SDDUSR_SPOOL", str(tmp_path / "home"))


@pytest.fixture
def server(monkeypatch) -> FakeServer:
    server = FakeServer()
    monkeypatch.setattr(store, "MlflowClient", server.client)
    return server


@pytest.fixture
def folder(tmp_path) -> str:
    return str(tmp_path / "run")


def spools(folder: str) -> list[Path]:
    return list(Path(folder, "tracking").iterdir())


@pytest.mark.parametrize("seed", range(5))
def test_a_server_that_loses_calls_and_answers_gets_each_row_once_and_in_order(
    server, folder, seed
):
    server.flaky = 0.4
    server._random.seed(seed)
    run = open_run(URI, name="run", folder=folder)
    run.log_params({"a": 1, "b": [2]})
    for step in range(60):
        run.log_metrics({"loss": 1 / (step + 1), "rate": step}, step)
        if step % 20 == 0:
            run.log_picture("val/x", textured(8, 8, step), step)
            time.sleep(0.05)
    run.finish()
    assert server.points("loss") == [(step, 1 / (step + 1)) for step in range(60)]
    assert server.points("rate") == [(step, step) for step in range(60)]
    found = server.only_run()
    assert found.params == {"a": "1", "b": "[2]"}
    assert found.info.status == "FINISHED"
    assert len(set(found.files)) == 2 * 3
    assert all("val~x+step+" in file for file in found.files)


def test_a_server_that_is_away_at_the_start_gets_the_run_later(server, folder, caplog):
    server.away = True
    run = open_run(URI, name="run", folder=folder)
    run.log_metrics({"loss": 1}, 1)
    assert (run.run_id, tracking.noted_run(folder)) == ("", "")
    assert f"MLflow at {URI} is away" in caplog.text
    server.away = False
    run.log_metrics({"loss": 2}, 2)
    run.finish()
    assert run.run_id == tracking.noted_run(folder) == server.only_run().info.run_id
    assert server.points("loss") == [(1, 1), (2, 2)]


def test_a_run_resumed_before_the_server_is_back_is_still_one_run(server, folder):
    server.away = True
    for step in range(3):  # the process dies each time: no finish
        run = open_run(URI, name="run", folder=folder)
        run.log_metrics({"loss": step}, step)
        run._courier.stop()
    server.away = False
    open_run(URI, name="run", folder=folder).finish()
    assert server.points("loss") == [(0, 0), (1, 1), (2, 2)]


def test_steps_that_a_resume_does_again_keep_their_first_value(server, folder):
    first = open_run(URI, name="run", folder=folder)
    for step in (1, 2, 3):
        first.log_metrics({"loss": step}, step)
    first.leave()
    resumed = open_run(URI, name="run", folder=folder)
    for step in (2, 3, 4):
        resumed.log_metrics({"loss": 10 * step, "new": step}, step)
    resumed.finish()
    assert server.points("loss") == [(1, 1), (2, 2), (3, 3), (4, 40)]
    assert server.points("new") == [(2, 2), (3, 3), (4, 4)]


def test_a_spool_on_another_machine_doubles_nothing(server, folder, tmp_path):
    first = open_run(URI, name="run", folder=folder)
    first.log_metrics({"loss": 1}, 1)
    first.log_picture("x", textured(8, 8, 0), 1)
    first.leave()
    for spool in spools(folder):  # what a worker there would not see
        spool.rename(tmp_path / "gone")
    other = open_run(URI, name="run", folder=folder)
    other.log_metrics({"loss": 1.5}, 1)
    other.log_picture("x", textured(8, 8, 0), 1)
    other.log_metrics({"loss": 2}, 2)
    other.finish()
    assert server.points("loss") == [(1, 1), (2, 2)]
    assert len(server.only_run().files) == 2


def test_two_writers_share_a_spool_and_one_delivers(server, folder):
    driver = open_run(URI, name="run", folder=folder)
    worker = follow_run(URI, folder)
    for step in range(50):
        worker.log_metrics({"loss": step}, step)
        driver.log_metrics({"other": step}, step)
    assert not worker._courier.is_at_work
    worker.leave()
    driver.finish()
    assert server.points("loss") == server.points("other") == [(i, i) for i in range(50)]


def test_a_worker_waits_for_its_run_to_be_created(server, folder, tmp_path, monkeypatch):
    """As with a run's folder in a bucket: the driver's spool lies on another machine."""
    note = Path(folder, tracking.NOTE)
    note.parent.mkdir()
    note.write_text(json.dumps({"tracking_uri": URI, "run_id": "", "key": "k"}))
    worker = follow_run(URI, folder)
    worker.log_metrics({"loss": 1}, 1)
    driver = open_run(URI, name="run")
    note.write_text(json.dumps({"tracking_uri": URI, "run_id": driver.run_id, "key": "k"}))
    worker.leave()
    assert server.points("loss") == [(1, 1)]
    driver.finish()


def lose_machine(run: tracking.TrackedRun) -> None:
    """Its disk too; what it had copied to the bucket is all that is left."""
    run._courier.stop()
    run._courier._thread.join()
    shutil.rmtree(run.spool.folder)


def test_rows_in_a_bucket_survive_the_machine_that_could_not_deliver_them(server):
    folder = "fsspec+memory://runs/survivor"
    server.away = True
    driver = open_run(URI, name="run", folder=folder)
    driver.log_metrics({"loss": 1}, 1)
    driver.log_picture("x", textured(8, 8, 0), 1)
    driver.leave(wait_s=0.3)
    assert not driver.run_id
    lose_machine(driver)
    server.away = False
    again = open_run(URI, name="run", folder=folder)
    again.log_metrics({"loss": 2}, 2)
    again.finish()
    assert sorted(server.points("loss")) == [(1, 1), (2, 2)]
    assert len(server.only_run().files) == 2
    assert not storage.exists(f"{folder}/tracking")


def test_a_finished_run_whose_machine_is_gone_is_delivered_from_the_bucket(server):
    folder = "fsspec+memory://runs/finished"
    server.away = True
    driver = open_run(URI, name="run", folder=folder)
    driver.log_metrics({"loss": 1}, 1)
    driver.finish("FAILED", wait_s=0.3)
    lose_machine(driver)
    server.away = False
    assert tracking.deliver_rest(URI, folder, 10) == server.only_run().info.run_id
    assert server.points("loss") == [(1, 1)]
    assert server.only_run().info.status == "FAILED"


def test_a_fresh_run_of_the_same_name_is_another_run(server, folder):
    bucket = "fsspec+memory://runs/fresh"
    for place in (folder, bucket):
        first = open_run(URI, name="run", folder=place)
        first_id = first.run_id
        first.log_metrics({"loss": 1}, 1)
        first.leave()
        storage.remove_folder(place)
        second = open_run(URI, name="run", folder=place)
        second.log_metrics({"loss": 2}, 1)
        second.finish()
        assert second.run_id != first_id
        assert [point.value for point in server.runs[second.run_id].metrics] == [2]


def test_a_server_that_hangs_does_not_slow_who_logs(server, folder):
    run = open_run(URI, name="run", folder=folder)
    server.delay = lambda: time.sleep(0.5)
    picture = textured(64, 64, 0)
    started = time.monotonic()
    for step in range(200):
        run.log_metrics({f"metric{i}": step for i in range(10)}, step)
    run.log_picture("x", picture)
    assert time.monotonic() - started < 0.5  # a call of the server's would take as long
    server.delay = lambda: None
    run.finish()
    assert server.points("metric9") == [(step, step) for step in range(200)]


def test_a_long_backlog_goes_in_few_calls(server, folder):
    server.away = True
    run = open_run(URI, name="run", folder=folder)
    for step in range(2000):
        run.log_metrics({"a": step, "b": step}, step)
    before = server.num_calls
    server.away = False
    run.finish()
    assert len(server.points("a")) == len(server.points("b")) == 2000
    assert server.num_calls - before < 20


def test_what_waits_at_the_end_is_named_and_delivered_by_the_command(
    server, folder, caplog, capsys
):
    server.away = True
    run = open_run(URI, name="run", folder=folder)
    run.log_metrics({"loss": math.nan}, 1)
    run.log_picture("x", textured(8, 8, 0), 1)
    started = time.monotonic()
    run.finish("FAILED", wait_s=0.2)
    assert time.monotonic() - started < 2
    (spool,) = spools(folder)
    told = f"4 records wait in {spool}; deliver them with: python -m pipelines.tracking {spool}"
    assert told in caplog.text
    with pytest.raises(OSError, match=f"MLflow at {URI} is away .*4 records wait"):
        deliver(DeliverOptions(spool=str(spool), wait_s=0.1))
    server.away = False
    deliver(DeliverOptions(spool=str(spool)))
    assert f"4 records delivered to {URI}, run run0" in capsys.readouterr().out
    assert [step for step, _ in server.points("loss")] == [1]
    assert server.only_run().info.status == "FAILED"
    assert not list((spool / "files").iterdir())


def test_a_folder_that_is_no_spool_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no records\.jsonl there"):
        deliver(DeliverOptions(spool=str(tmp_path)))


def test_the_same_command_delivers_what_a_finished_run_left(server, folder):
    server.away = True
    run = open_run(URI, name="run", folder=folder)
    run.log_metrics({"loss": 1}, 1)
    run.finish(wait_s=0)
    server.away = False
    assert tracking.deliver_rest(URI, folder, 10) == server.only_run().info.run_id
    assert server.points("loss") == [(1, 1)]
    assert server.only_run().info.status == "FINISHED"


def test_one_refused_record_is_set_aside_and_the_others_arrive(server, folder, caplog):
    server.refused = {"bad"}
    server.away = True
    run = open_run(URI, name="run", folder=folder)
    run.log_metrics({"good": 1}, 1)
    run.log_metrics({"bad": 2}, 2)
    run.log_artifact("no/such/file")
    run.log_metrics({"good": 3}, 3)
    server.away = False
    run.finish()
    assert server.points("good") == [(1, 1), (3, 3)]
    (spool,) = spools(folder)
    refused = [json.loads(line) for line in (spool / "refused.jsonl").read_text().splitlines()]
    assert [entry["record"]["kind"] for entry in refused] == ["metrics", "artifact"]
    assert "refuses a record (metrics): invalid metric" in caplog.text
    server.refused = set()
    deliver(DeliverOptions(spool=str(spool), refused=True))
    assert server.points("bad") == [(2, 2)]


def test_a_picture_torn_on_the_disk_holds_up_nothing(server, folder, caplog):
    server.away = True
    run = open_run(URI, name="run", folder=folder)
    run.log_picture("sr", np.zeros((40, 40, 3), np.uint8), 1)
    run.log_metrics({"loss": 2}, 2)
    (kept,) = Path(run.spool.folder, "files").rglob("*.png")
    kept.write_bytes(kept.read_bytes()[:60])
    server.away = False
    run.finish()
    assert server.points("loss") == [(2, 2)]
    assert "refuses a record (picture)" in caplog.text


def test_a_record_that_breaks_the_server_each_time_holds_up_the_others_for_a_while_only(
    server, folder, monkeypatch
):
    monkeypatch.setattr(store, "MAX_TRIES", 5)
    server.breaking = {"bad"}
    server.away = True
    run = open_run(URI, name="run", folder=folder)
    for step in range(30):
        run.log_metrics({"bad" if step == 20 else "good": step}, step)
    server.away = False
    run.finish()
    assert [step for step, _ in server.points("good")] == [*range(20), *range(21, 30)]
    (spool,) = spools(folder)
    assert json.loads((spool / "refused.jsonl").read_text())["record"]["metrics"] == {"bad": 20}


def test_half_a_line_of_a_killed_process_costs_nothing_else(server, folder, caplog):
    run = open_run(URI, name="run", folder=folder)
    run.log_metrics({"loss": 1}, 1)
    run.leave()
    (place,) = spools(folder)
    with open(place / "records.jsonl", "ab") as file:
        file.write(b'{"kind": "metrics", "step": 2, "met')
    assert Spool(place).num_waiting() == 0
    resumed = open_run(URI, name="run", folder=folder)
    resumed.log_metrics({"loss": 2}, 2)
    resumed.finish()
    assert server.points("loss") == [(1, 1), (2, 2)]
    assert "half a line" in caplog.text


def test_a_disk_that_is_full_is_said_once_and_stops_nothing(server, folder, caplog, monkeypatch):
    run = open_run(URI, name="run", folder=folder)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Spool, "append", full)
    run.log_metrics({"loss": 1}, 1)
    run.log_metrics({"loss": 2}, 2)
    assert caplog.text.count("No space left") == 1


def test_an_evaluation_joins_a_run_and_does_not_end_it(server, folder):
    training = open_run(URI, name="run", folder=folder)
    for value in (1, 2):  # the second one is of another setting: both count
        joined = join_run(URI, training.run_id, name="evaluate")
        joined.log_metrics({"test/psnr": value}, 7)
        joined.finish()
    assert server.points("test/psnr") == [(7, 1), (7, 2)]
    assert server.only_run().info.status == "RUNNING"
    unknown = join_run(URI, "gone", name="evaluate")
    unknown.finish()
    assert server.runs[unknown.run_id].info.status == "FINISHED"
    training.finish()
    assert not list(tracked_run.spool_home().iterdir())


def test_a_run_in_a_bucket_keeps_its_spool_in_the_users_cache(monkeypatch, tmp_path):
    spool = tracked_run.spool_of("s3://bucket/runs/a", URI)
    assert spool.folder.parent == tmp_path / "home"
    assert spool.folder != tracked_run.spool_of("s3://bucket/runs/b", URI).folder
    monkeypatch.delenv("SDDUSR_SPOOL")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert tracked_run.spool_home() == tmp_path / "cache" / "sddusr" / "spool"
    Path(tmp_path, "file").touch()
    monkeypatch.setenv("SDDUSR_SPOOL", str(tmp_path / "file" / "spool"))
    assert tracked_run.spool_home().parent == Path(tempfile.gettempdir())


@pytest.mark.parametrize("uri", ["nosuch://server", "http:/", "postgresql+nosuch://a/b"])
def test_a_store_that_cannot_be_used_is_refused_at_the_start(uri, folder):
    with pytest.raises(ValueError, match=r"cannot be used .* give another --tracking-uri"):
        open_run(uri, name="run", folder=folder)


def test_sqlite_takes_the_same_spool_twice_without_a_trace(tmp_path, folder, caplog):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run = open_run(uri, name="run", folder=folder, tags={"tag": "x"})
    run.log_params({f"p{i}": "v" * 7000 if i == 0 else i for i in range(150)})
    run.log_metrics({"loss": 1, "odd (name)": math.inf}, 1)
    run.log_metrics({"loss": math.nan}, 2)
    run.log_picture("val/x", textured(8, 300, 0), 1)
    table = tmp_path / "table.txt"
    table.write_text("1")
    run.log_artifact(table, "tables", copy=True)
    table.unlink()
    run.log_artifact(Path(__file__).parent / "test_tracking.py")
    run.finish()
    client = tracking.MlflowClient(uri)

    def everything() -> list:
        history = client.get_metric_history(run.run_id, "loss")
        read = client.get_run(run.run_id)
        files = [
            i.path for f in (None, "images", "tables") for i in client.list_artifacts(run.run_id, f)
        ]
        return [len(history), read.data.params, sorted(files), read.info.status]

    before = everything()
    assert before[0] == 2
    assert len(before[1]) == 150
    assert before[3] == "FINISHED"
    assert len([file for file in before[2] if file.startswith("images/val~x+step+1+")]) == 2
    assert {"tables/table.txt", "test_tracking.py"} <= set(before[2])
    (place,) = spools(folder)
    (place / "delivered.json").unlink()  # as if the answer to each call had been lost
    logging.getLogger().handlers.clear()
    deliver(DeliverOptions(spool=str(place)))
    assert everything() == before
    assert np.isnan(client.get_metric_history(run.run_id, "loss")[-1].value)
