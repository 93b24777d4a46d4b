"""Tracking when processes are killed, databases are locked and servers go away."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from pipelines import tracking
from pipelines.tracking import MlflowClient, courier, open_run
from tests.conftest import textured

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120


def points(uri: str, run_id: str, key: str = "loss") -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in MlflowClient(uri).get_metric_history(run_id, key)]


def test_a_killed_process_loses_and_doubles_no_row(tmp_path):
    """Each life is killed at another moment; the next one begins again a few steps earlier."""
    uri, folder = f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "run")
    open_run(uri, name="run", folder=folder).leave()
    told = 0
    for life_rows in (40, 150):
        command = [sys.executable, "-m", "tests.faults.tracked_writer", uri, folder]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        first = str(max(told - 3, 0))
        with subprocess.Popen(
            [*command, first], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for line in writer.stdout:
                told = int(line)
                life_rows -= 1
                if life_rows == 0:
                    writer.kill()
    run = open_run(uri, name="run", folder=folder)
    run.finish()
    for key, sign in (("loss", 1), ("rate", -1)):
        found = points(uri, run.run_id, key)
        assert found == [(step, sign * step) for step in range(len(found))]
        assert len(found) > told  # what was printed had been logged


def test_a_locked_database_counts_as_away(tmp_path, monkeypatch):
    monkeypatch.setattr(courier, "FIRST_WAIT_S", 0.1)
    database = tmp_path / "mlflow.db"
    uri, folder = f"sqlite:///{database}", str(tmp_path / "run")
    run = open_run(uri, name="run", folder=folder)
    lock = sqlite3.connect(database, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    for step in range(100):
        run.log_metrics({"loss": step}, step)
    run.finish(wait_s=0.5)
    assert time.monotonic() - started < 5
    assert tracking.spool_of(folder, uri).num_waiting() == 101
    lock.execute("ROLLBACK")
    lock.close()
    deadline = time.monotonic() + PATIENCE_S
    while tracking.spool_of(folder, uri).num_waiting() and time.monotonic() < deadline:
        tracking.deliver_rest(uri, folder, 1)
    assert points(uri, run.run_id) == [(step, step) for step in range(100)]


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[None]:
    """A real server on the loopback, killed with all its processes at the end."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(folder / "server.log", "a") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.2)
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (URLError, OSError):
        return False


def log_steps(run: tracking.TrackedRun, first: int, last: int) -> float:
    """Log some steps; the longest time that one took."""
    longest_s = 0.0
    for step in range(first, last):
        started = time.monotonic()
        run.log_metrics({"loss": step, "rate": -step}, step)
        if step % 10 == 0:
            run.log_picture("val/x", textured(16, 16, step), step)
        longest_s = max(longest_s, time.monotonic() - started)
        time.sleep(0.01)
    return longest_s


@pytest.mark.ray
def test_a_server_away_at_the_start_killed_in_the_middle_and_back(tmp_path, monkeypatch):
    monkeypatch.setattr(courier, "LONGEST_WAIT_S", 1.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri, folder = f"http://127.0.0.1:{port}", str(tmp_path / "run")
    run = open_run(uri, name="run", folder=folder)
    run.log_params({"seed": 0})
    longest_s = [log_steps(run, 0, 50)]
    with mlflow_server(tmp_path, port):
        longest_s.append(log_steps(run, 50, 150))
    longest_s.append(log_steps(run, 150, 200))
    run.leave(wait_s=1)  # as if the process were killed here
    resumed = open_run(uri, name="run", folder=folder)
    longest_s.append(log_steps(resumed, 190, 250))  # away still; ten steps are done again
    with mlflow_server(tmp_path, port):
        resumed.finish()
        found = tracking.read_run(uri, resumed.run_id)
        assert points(uri, resumed.run_id) == [(step, step) for step in range(250)]
        assert points(uri, resumed.run_id, "rate") == [(step, -step) for step in range(250)]
        pictures = MlflowClient(uri).list_artifacts(resumed.run_id, "images")
        assert len(pictures) == 2 * 25
        runs = MlflowClient(uri).search_runs([found.info.experiment_id])
    assert [one.info.run_id for one in runs] == [tracking.noted_run(folder)]
    assert (found.info.status, found.data.params) == ("FINISHED", {"seed": "0"})
    assert max(longest_s) < 0.5
