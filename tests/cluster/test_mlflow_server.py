"""The MLflow server, run with the arguments of its own manifest: SQLite and a folder stand in for
Postgres and the bucket."""

import base64
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.manifests import CLUSTER, mlflow_container

PASSWORD = "correct horse battery staple"
START_S = 120
pytestmark = pytest.mark.long
ALLOWED = "mlflow:5000"
EXPERIMENT = "/api/2.0/mlflow/experiments/get?experiment_id=0"


def arguments(port: int, artifacts: Path) -> list[str]:
    """The manifest's, at another address and with another place for artifacts."""
    changed = {
        "--host": "127.0.0.1",
        "--port": str(port),
        "--workers": "1",
        "--artifacts-destination": str(artifacts),
    }
    words = [*mlflow_container()["command"][1:], *mlflow_container()["args"]]
    given = [word.partition("=") for word in words]
    assert set(changed) <= {name for name, _, _ in given}
    return [name + sign + changed.get(name, value) for name, sign, value in given]


def environment(folder: Path) -> dict[str, str]:
    """The manifest's, and what its Secrets would hold."""
    ini = (CLUSTER / "mlflow" / "basic_auth.ini").read_text()
    database = "database_uri = postgresql+psycopg://USER:PASSWORD@HOST:5432/mlflow"
    assert database in ini
    config = folder / "basic_auth.ini"
    config.write_text(ini.replace(database, f"database_uri = sqlite:///{folder}/users.db"))
    return {
        **os.environ,
        **{env["name"]: env["value"] for env in mlflow_container()["env"]},
        "HOME": str(folder),
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "signs the forms",
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address, once its own probe answers."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mlflow = Path(sys.executable).with_name("mlflow")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [mlflow, *arguments(port, folder / "artifacts")],
            env=environment(folder),
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    probe = address + mlflow_container()["startupProbe"]["httpGet"]["path"]
    try:
        deadline = time.monotonic() + START_S
        while answer(probe) != 200:
            ended = process.poll() is not None or time.monotonic() > deadline
            assert not ended, (folder / "log").read_text()[-2000:]
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answer(url: str, password: str = "", host: str = ALLOWED) -> int:
    """The status; 0 where nobody answers."""
    request = urllib.request.Request(url, headers={"Host": host})
    if password:
        code = base64.b64encode(f"admin:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {code}")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except urllib.error.URLError:
        return 0


def test_the_server_asks_for_the_password(server: str):
    assert answer(server + EXPERIMENT, PASSWORD) == 200
    assert answer(server + EXPERIMENT, "another") == 401
    assert answer(server + EXPERIMENT) == 401


def test_the_server_refuses_a_name_that_is_not_its_own(server: str):
    assert answer(server + EXPERIMENT, PASSWORD, host="elsewhere.example") == 403


def test_the_probe_needs_neither_password_nor_name(server: str):
    assert answer(f"{server}/health", host="10.1.2.3:5000") == 200
