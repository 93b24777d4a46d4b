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

from pipelines.tracking import background, links
from pipelines.tracking.background import BackgroundMirror, describe, mirror, mirrored
from pipelines.tracking.client import MlflowClient
from pipelines.tracking.mirror import noted_run
from sddusr.runs.run_folder import RunFolder
from tests.conftest import textured

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120


def described(folder: str, uri: str, params: dict[str, int] | None = None) -> RunFolder:
    run = RunFolder(folder)
    describe(run, uri, name="run", experiment="tests", params=params)
    return run


def points(uri: str, run_id: str, key: str = "loss") -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in MlflowClient(uri).get_metric_history(run_id, key)]


@pytest.mark.long
def test_a_killed_process_loses_and_doubles_no_row(tmp_path):
    """Each life is killed at another moment; the next one begins again a few steps earlier."""
    uri, folder = f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "run")
    described(folder, uri)
    mirror(folder, uri, PATIENCE_S)
    printed = 0
    for life_rows in (40, 150):
        command = [sys.executable, "-m", "tests.faults.tracked_writer", uri, folder]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        first = str(max(printed - 3, 0))
        with subprocess.Popen(
            [*command, first], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for line in writer.stdout:
                printed = int(line)
                life_rows -= 1
                if life_rows == 0:
                    writer.kill()
    run_id = mirror(folder, uri, PATIENCE_S)
    for key, sign in (("loss", 1), ("rate", -1)):
        found = points(uri, run_id, key)
        assert found == [(step, sign * step) for step in range(len(found))]
        assert len(found) > printed  # what was printed had been logged


@pytest.mark.long
def test_a_locked_database_counts_as_unreachable(tmp_path, monkeypatch):
    monkeypatch.setattr(background, "FIRST_WAIT_S", 0.1)
    database = tmp_path / "mlflow.db"
    uri, folder = f"sqlite:///{database}", str(tmp_path / "run")
    run = described(folder, uri)
    run_id = mirror(folder, uri, PATIENCE_S)
    lock = sqlite3.connect(database, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with mirrored(run, uri, wait_s=0.5):
        for step in range(100):
            run.log_metrics(step, {"loss": step})
    lock.execute("ROLLBACK")
    lock.close()
    deadline = time.monotonic() + PATIENCE_S
    while not mirror(folder, uri, 5) or len(points(uri, run_id)) < 100:
        assert time.monotonic() < deadline
    assert points(uri, run_id) == [(step, step) for step in range(100)]


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


def log_steps(run: RunFolder, first: int, last: int) -> float:
    """Log some steps; the longest time that one took."""
    longest_s = 0.0
    for step in range(first, last):
        started = time.monotonic()
        run.log_metrics(step, {"loss": step, "rate": -step})
        if step % 10 == 0:
            run.log_image(step, "val/x", textured(16, 16, step))
        longest_s = max(longest_s, time.monotonic() - started)
        time.sleep(0.01)
    return longest_s


@pytest.mark.long
def test_a_server_away_at_the_start_killed_in_the_middle_and_back(tmp_path, monkeypatch):
    monkeypatch.setattr(background, "LONGEST_WAIT_S", 1.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri, folder = f"http://127.0.0.1:{port}", str(tmp_path / "run")
    run = described(folder, uri, {"seed": 0})
    first = BackgroundMirror(run, uri)
    longest_s = [log_steps(run, 0, 50)]
    with mlflow_server(tmp_path, port):
        longest_s.append(log_steps(run, 50, 150))
    longest_s.append(log_steps(run, 150, 200))
    first.close(wait_s=1)  # as if the process were killed here
    resumed = described(folder, uri, {"seed": 0})
    with mirrored(resumed, uri):
        longest_s.append(log_steps(resumed, 190, 250))  # away still; ten steps are repeated
        server = mlflow_server(tmp_path, port)
        server.__enter__()
    try:
        run_id = noted_run(folder)
        found = links.read_run(uri, run_id)
        assert points(uri, run_id) == [(step, step) for step in range(250)]
        assert points(uri, run_id, "rate") == [(step, -step) for step in range(250)]
        images = MlflowClient(uri).list_artifacts(run_id, "images")
        assert len(images) == 2 * 25
        runs = MlflowClient(uri).search_runs([found.info.experiment_id])
    finally:
        server.__exit__(None, None, None)
    assert [one.info.run_id for one in runs] == [run_id]
    assert (found.info.status, found.data.params) == ("FINISHED", {"seed": "0"})
    assert max(longest_s) < 0.5
