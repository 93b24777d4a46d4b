"""Runs in MLflow. A store that is slow or away neither holds up training nor costs a row: all goes
through a spool. `python -m pipelines.tracking SPOOL` delivers what a run left behind.
"""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePath
from typing import Any

import tyro

from pipelines.ray_runtime.persistent_paths import home, in_throwaway_folder, job_package
from pipelines.tracking.courier import Courier
from pipelines.tracking.spool import RECORDS, Spool
from pipelines.tracking.spool_backup import restore
from pipelines.tracking.store import MlflowClient, Run, Store, database_path, experiment_of
from pipelines.tracking.tracked_run import END_WAIT_S, TrackedRun, spool_of
from sddusr import storage

__all__ = ["END_WAIT_S", "MlflowClient", "TrackedRun"]

EXPERIMENT = "sddusr"
DATABASE = "mlflow.db"
LOCAL_PAGE = "http://127.0.0.1:5000"
"""Where `mlflow ui` listens."""

PARENT_TAG = "mlflow.parentRunId"
"""Makes a run a child, shown below its parent."""

NOTE = "mlflow.json"
"""In a run's folder: which MLflow run is its own."""


def tracking_uri(given: str | None) -> str:
    """The flag's URI, else MLFLOW_TRACKING_URI, else `mlflow.db` in the working folder, or in a
    job in `~/sddusr`.

    Raises:
        ValueError: the database would be deleted with a job's working folder.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / DATABASE}"
    if not uri.startswith("sqlite:///") or uri.startswith("sqlite:////"):
        return uri
    if in_throwaway_folder():
        raise ValueError(
            f"--tracking-uri (or MLFLOW_TRACKING_URI) is {uri!r}, relative to the job's working "
            f"folder, which Ray deletes; give a server's address, or sqlite:/// and an absolute "
            f"path (sqlite:////home/me/mlflow.db)"
        )
    return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"


def local_database(uri: str) -> Path | None:
    """The file of an SQLite store; None for a server."""
    return database_path(uri) if uri.startswith("sqlite:") else None


def open_run(
    uri: str | None,
    *,
    name: str,
    experiment: str = EXPERIMENT,
    folder: str = "",
    tags: Mapping[str, str] | None = None,
) -> TrackedRun:
    """A run of our own: the one that belongs to `folder` already, or a new one. A store that is
    away gets it later.

    Args:
        folder: the training run's, local or a URI; empty for a run that nothing resumes.

    Raises:
        ValueError: the tracking store answers that it cannot be used.
    """
    uri = tracking_uri(uri)
    note = storage.join(folder, NOTE) if folder else ""
    before = _noted(note, uri)
    key, run_id = before.get("key") or uuid.uuid4().hex, before.get("run_id", "")
    if note and not before.get("key"):
        told = {"tracking_uri": uri, "run_id": run_id, "key": key}
        storage.write_atomic(note, json.dumps(told, indent=1).encode())
    opening = {
        "run_id": run_id,
        "key": key,
        "note": note,
        "owned": True,
        "once": bool(folder),
        "create": _creation(name, experiment, tags),
    }
    run = TrackedRun(uri, folder, opening)
    run.check()
    if folder:
        run.take_over()
    return run


def follow_run(uri: str, folder: str) -> TrackedRun:
    """The run that another process opened for `folder`, to add to."""
    note = storage.join(folder, NOTE)
    opening = {"run_id": "", "key": "", "note": note, "owned": False, "once": True, "create": None}
    return TrackedRun(uri, folder, opening)


def join_run(
    uri: str | None, run_id: str, *, name: str, experiment: str = EXPERIMENT
) -> TrackedRun:
    """An existing run to add to; a new one of our own where the store does not know it.

    Raises:
        ValueError: the tracking store answers that it cannot be used.
    """
    uri, key = tracking_uri(uri), uuid.uuid4().hex
    opening = {
        "run_id": run_id,
        "key": key,
        "note": "",
        "owned": False,
        "once": False,
        "create": _creation(name, experiment, None),
    }
    run = TrackedRun(uri, "", opening)
    run.check()
    return run


def deliver_rest(uri: str | None, folder: str, wait_s: float) -> str:
    """Deliver what is left of a run that ended; its MLflow id."""
    uri = tracking_uri(uri)
    spool = spool_of(folder, uri)
    restore(spool, folder)
    if spool.num_waiting():
        follow_run(uri, folder).leave(wait_s)
    return noted_run(folder)


def noted_run(folder: str) -> str:
    """The MLflow run of a training run's folder; empty where none was created yet."""
    note = storage.join(folder, NOTE)
    return storage.read_json(note).get("run_id", "") if storage.exists(note) else ""


def read_run(uri: str | None, run_id: str) -> Run:
    """A run as the store holds it: `.data.params`, `.data.metrics`, `.info.status`."""
    return MlflowClient(tracking_uri(uri)).get_run(run_id)


def how_to_look(uri: str | None) -> str:
    """The command that opens MLflow's pages on this store, or the server's own address."""
    uri = tracking_uri(uri)
    if not uri.startswith("sqlite:"):
        return uri
    path = database_path(uri)
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"mlflow ui --backend-store-uri sqlite:///{path}"


def run_page(uri: str | None, run_id: str, tab: str = "") -> str:
    """Where MLflow shows a run, as model training and not as chats, which is how it opens.

    Args:
        tab: `model-metrics` for curves and pictures, `artifacts/PATH` for a file.

    Returns:
        The address (for SQLite, of `mlflow ui` as it starts by itself); of the list of experiments
        where the run cannot be found.
    """
    uri = tracking_uri(uri)
    top = LOCAL_PAGE if uri.startswith("sqlite:") else uri.rstrip("/")
    experiment = experiment_of(uri, run_id) if run_id else ""
    run = f"/{experiment}/runs/{run_id}{tab and '/' + tab}" if experiment else ""
    return f"{top}/#/experiments{run}?workflowType=machine_learning"


@cache
def code_version() -> str:
    """The commit of the code, `+` behind it where files differ from it; outside git the name of the
    job's package, which Ray makes of its content, or `unknown`."""
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
        return PurePath(job_package()).stem or "unknown"
    return described.stdout.strip()


def _noted(note: str, uri: str) -> dict[str, str]:
    """What a run's folder tells, unless it is about another store."""
    told = storage.read_json(note) if note and storage.exists(note) else {}
    return told if told.get("tracking_uri") == uri else {}


def _creation(name: str, experiment: str, tags: Mapping[str, str] | None) -> dict[str, Any]:
    return {
        "name": name,
        "experiment": experiment,
        "time_ms": int(time.time() * 1000),
        "tags": {
            "mlflow.user": os.environ.get("USER", "unknown"),
            "mlflow.source.name": Path(sys.argv[0]).name,
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": code_version().rstrip("+"),
            "sddusr.commit": code_version(),
            **(tags or {}),
        },
    }


@dataclass(frozen=True, kw_only=True)
class DeliverOptions:
    """Deliver what a run could not, because MLflow was away."""

    spool: tyro.conf.Positional[str]
    """The folder that the run's last log line names."""
    tracking_uri: str | None = None
    """MLflow; by default where the run wanted to deliver."""
    refused: bool = False
    """Try once more what MLflow refused before."""
    wait_s: float = 60.0
    """Give up after so many seconds in which nothing is delivered."""


def deliver(options: DeliverOptions) -> None:
    """Deliver a spool.

    Raises:
        FileNotFoundError: there is none.
        OSError: the store is away still.
    """
    spool = Spool(options.spool)
    opening = next((entry.record for entry in spool.read(0) if entry.record), None)
    if opening is None:
        raise FileNotFoundError(f"{options.spool}: no {RECORDS} there; give a spool's folder")
    uri = tracking_uri(options.tracking_uri or opening["uri"])
    if options.refused:
        spool.retry_refused()
    num, left = spool.num_waiting(), -1
    courier = Courier(spool, f"MLflow at {uri}", partial(Store, uri, spool))
    while not (delivered := courier.wait_until(spool.end(), options.wait_s)):
        if spool.num_waiting() == left:
            break
        left = spool.num_waiting()
    courier.stop()
    if not delivered:
        raise OSError(f"MLflow at {uri} is away ({courier.trouble!s:.200}); {left} records wait")
    print(f"{num} records delivered to {uri}, run {spool.mark().state['run_id']}")
