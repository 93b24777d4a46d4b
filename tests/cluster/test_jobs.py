"""`ray job submit` against a real cluster with token authentication, as a user types it."""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from pipelines.tracking.client import MlflowClient

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
PATIENCE_S = 120
SHORT = ["--train.num-steps", "4", "--train.log-every", "2", "--train.validate-every", "4"]

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


class Head(NamedTuple):
    """A cluster of one node."""

    address: str
    gcs: str
    """What RAY_ADDRESS names."""
    home: Path
    """The home folder of whom the cluster belongs to."""
    env: dict[str, str]

    def submit(self, *entrypoint: str) -> subprocess.CompletedProcess[str]:
        """Send the repository and run a command of it; what the user sees, without colours."""
        command = [str(BIN / "ray"), "job", "submit", "--address", self.address]
        command += ["--working-dir", str(ROOT), "--", *entrypoint]
        until = time.monotonic() + PATIENCE_S
        while True:
            done = subprocess.run(
                command,
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=600,
            )
            done.stdout = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
            starts = "Failed to connect" in done.stdout or "No available agent" in done.stdout
            if not starts or time.monotonic() > until:
                return done
            time.sleep(1)


def free_ports(num: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(num)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    env |= {
        "HOME": str(home),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    gcs, dashboard, agent, client = free_ports(4)
    # Not in the test's own folder: the path of a socket may have 107 letters.
    folder = Path("/tmp", f"ray-{secrets.token_hex(4)}")
    command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
    command += ["--dashboard-host=127.0.0.1", f"--object-store-memory={200 * 2**20}"]
    with open(home / "head.log", "w") as log:
        process = subprocess.Popen(
            command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", home, env)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # asked to leave, it takes more than 20 s
        process.wait()
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_a_job_without_places_keeps_its_run_and_database_in_the_users_home(head):
    done = head.submit("python", "pipelines/train.py", "demo", *SHORT)
    assert done.returncode == 0, done.stdout
    assert "step 4/4: loss" in done.stdout
    assert "done: 4 steps" in done.stdout
    (run,) = (head.home / "sddusr" / "runs").glob("demo-*")
    assert (run / "checkpoints" / "step-00000004" / "hashes.json").exists()
    client = MlflowClient(f"sqlite:///{head.home}/sddusr/mlflow.db")
    (found,) = client.search_runs(["1"])
    assert found.info.status == "FINISHED"
    # There is no commit in a job's folder; Ray names the package by its content.
    assert found.data.tags["sddusr.commit"].startswith("_ray_pkg_")
    again = head.submit("python", "pipelines/train.py", "demo", *SHORT)
    assert again.returncode == 0
    assert f"run {run.name} in {run} is finished" in again.stdout


def test_jobs_that_cannot_go_well_fail_at_once_with_one_line(head):
    refused = {
        ("--storage", "runs"): "--storage is 'runs', relative to the job's working folder",
        ("--tracking-uri", "sqlite:///m.db"): "--tracking-uri (or MLFLOW_TRACKING_URI) is",
        ("--workers", "3"): "--workers is 3, the cluster has 2 cores",
    }
    with ThreadPoolExecutor() as pool:
        jobs = pool.map(lambda flags: head.submit("python", "pipelines/train.py", *flags), refused)
    for done, told in zip(jobs, refused.values(), strict=True):
        assert done.returncode == 1  # Ray's, for any failure
        assert "failed with exit code 2" in done.stdout
        assert f"error: {told}" in done.stdout
        assert "Traceback" not in done.stdout


@pytest.mark.parametrize("right", [True, False])
def test_a_command_with_an_address_sends_the_token_that_lies_at_home(head, tmp_path, right):
    """RAY_AUTH_MODE is not set, as where an earlier local run has made the token."""
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text(head.env["RAY_AUTH_TOKEN"] if right else secrets.token_hex(32))
    env = {name: value for name, value in head.env.items() if not name.startswith("RAY_AUTH")}
    command = [sys.executable, "pipelines/preprocess.py", "samples", "--out", str(tmp_path / "out")]
    env |= {"HOME": str(tmp_path), "RAY_ADDRESS": head.gcs}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == (0 if right else 2), done.stderr
    if not right:
        assert "the token is not the cluster's" in done.stderr.splitlines()[-1]


def test_without_the_token_nothing_runs(head):
    stranger = head._replace(env={**head.env, "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    done = stranger.submit("python", "-c", "print('in')")
    assert done.returncode != 0
    assert "Authentication" in done.stdout
