"""Runs in MLflow; the only file that knows it.

A server that is slow or away does not hold up training: rows and pictures go through a queue that
a thread empties. What cannot be delivered is said once in the log.
"""

import logging
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException

EXPERIMENT = "sddusr"
MAX_PARAMS_PER_CALL = 100
MAX_METRICS_PER_CALL = 1000

log = logging.getLogger(__name__)


def tracking_uri(given: str | None) -> str:
    """The flag's URI, else MLFLOW_TRACKING_URI, else `mlflow.db` in the working folder."""
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    return uri


class TrackedRun:
    """One MLflow run, written to from a thread of its own.

    Args:
        owned: `finish` also ends the run; whoever only adds to it leaves its state alone.
    """

    def __init__(self, uri: str, run_id: str, owned: bool = False) -> None:
        self.uri = uri
        self.run_id = run_id
        self.owned = owned
        self._client = MlflowClient(uri)
        self._queue: queue.Queue[Callable[[], Any] | None] = queue.Queue()
        self._failed = False
        self._thread = threading.Thread(target=self._deliver, daemon=True, name="mlflow")
        self._thread.start()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters, flat; logging the same ones again changes nothing."""
        entries = [Param(key, str(value)) for key, value in params.items()]
        for start in range(0, len(entries), MAX_PARAMS_PER_CALL):
            chunk = entries[start : start + MAX_PARAMS_PER_CALL]
            self._later(lambda chunk=chunk: self._client.log_batch(self.run_id, params=chunk))

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Numbers of one step."""
        now_ms = int(time.time() * 1000)
        entries = [
            Metric(_allowed(key), float(value), now_ms, step) for key, value in metrics.items()
        ]
        for start in range(0, len(entries), MAX_METRICS_PER_CALL):
            chunk = entries[start : start + MAX_METRICS_PER_CALL]
            self._later(lambda chunk=chunk: self._client.log_batch(self.run_id, metrics=chunk))

    def log_picture(self, key: str, picture: np.ndarray, step: int = 0) -> None:
        """An RGB picture that a slider over steps can show."""
        key = _allowed(key)
        self._later(lambda: self._client.log_image(self.run_id, picture, key=key, step=step))

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """A file, or a folder with all that is in it."""
        log_it = self._client.log_artifacts if Path(path).is_dir() else self._client.log_artifact
        self._later(lambda: log_it(self.run_id, str(path), folder))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._later(lambda key=key, value=value: self._client.set_tag(self.run_id, key, value))

    def flush(self, timeout_s: float = 60) -> None:
        """Wait until everything so far was delivered, or given up."""
        done = threading.Event()
        self._queue.put(done.set)
        if not done.wait(timeout_s):
            log.warning("MLflow at %s is slow; not everything is delivered", self.uri)

    def finish(self, status: str = "FINISHED") -> None:
        """Deliver the rest; end a run of our own as FINISHED, FAILED or KILLED."""
        if self.owned:
            self._later(lambda: self._client.set_terminated(self.run_id, status))
        self.flush()
        self._queue.put(None)

    def _later(self, call: Callable[[], Any]) -> None:
        self._queue.put(call)

    def _deliver(self) -> None:
        while (call := self._queue.get()) is not None:
            try:
                call()
            except Exception as error:  # whatever a client raises, training goes on
                if not self._failed:
                    log.warning("MLflow at %s does not take a record: %.300s", self.uri, error)
                self._failed = True


def open_run(
    uri: str | None,
    *,
    name: str,
    experiment: str = EXPERIMENT,
    run_id: str = "",
    tags: Mapping[str, str] | None = None,
) -> TrackedRun:
    """Go on with run `run_id` if it is there, else create one.

    Raises:
        ValueError: the tracking store cannot be used.
    """
    uri = tracking_uri(uri)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        client = MlflowClient(uri)
        if run_id and _known(client, run_id):
            client.update_run(run_id, status="RUNNING")
            return TrackedRun(uri, run_id, owned=True)
        created = client.create_run(
            _experiment_id(client, uri, experiment),
            run_name=name,
            tags={
                "mlflow.user": os.environ.get("USER", "unknown"),
                "mlflow.source.name": Path(sys.argv[0]).name,
                "mlflow.source.type": "LOCAL",
                "mlflow.source.git.commit": code_version().rstrip("+"),
                "sddusr.commit": code_version(),
                **(tags or {}),
            },
        )
    except (MlflowException, OSError, ImportError) as error:
        raise ValueError(
            f"MLflow at {uri} cannot be used ({error!s:.200}); give another --tracking-uri, such "
            f"as sqlite:///mlflow.db"
        ) from error
    return TrackedRun(uri, created.info.run_id, owned=True)


def join_run(uri: str | None, run_id: str) -> TrackedRun | None:
    """An existing run to add to; None where the store does not know it."""
    uri = tracking_uri(uri)
    if not run_id or not _known(MlflowClient(uri), run_id):
        return None
    return TrackedRun(uri, run_id)


def read_run(uri: str | None, run_id: str) -> Run:
    """A run as the store holds it: `.data.params`, `.data.metrics`, `.info.status`."""
    return MlflowClient(tracking_uri(uri)).get_run(run_id)


def how_to_look(uri: str | None) -> str:
    """The command that opens MLflow's pages on this store, or the server's own address."""
    uri = tracking_uri(uri)
    if not uri.startswith("sqlite:"):
        return uri
    path = Path(unquote(urlparse(uri).path)[1:])
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"mlflow ui --backend-store-uri sqlite:///{path}"


@cache
def code_version() -> str:
    """The commit of the code, `+` behind it where files differ from it; `unknown` outside git."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def _allowed(key: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w\-./ ]", "-", key)


def _known(client: MlflowClient, run_id: str) -> bool:
    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException:
        return False


def _experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """The experiment's id; with SQLite its pictures and files lie beside the database."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    location = None
    if uri.startswith("sqlite:"):
        database = Path(unquote(urlparse(uri).path)[1:])
        location = (database.parent / "mlartifacts" / name).absolute().as_uri()
    return client.create_experiment(name, artifact_location=location)
