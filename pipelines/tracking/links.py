"""Addresses: of the MLflow store, of the pages that show a run, and of the code that made it."""

import getpass
import hashlib
import os
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path, PurePath
from urllib.parse import unquote, urlparse

from pipelines.ray_runtime.persistent_paths import home, in_throwaway_folder, job_package
from pipelines.tracking.client import WRONG_URI, MlflowException, Run, make_client

EXPERIMENT = "sddusr"
DATABASE = "mlflow.db"
LOCAL_PAGE = "http://127.0.0.1:5000"
"""Where `mlflow ui` listens."""

SCORE_TAG, DATA_TAG = "sddusr.score", "sddusr.data_hash"
"""Of a registered version: its full PSNR on the validation images (dB), and the hash of the shards
that held them."""

KEY_TAG = "sddusr.key"
"""Finds a run again where the answer to its creation was lost."""

PARENT_TAG = "mlflow.parentRunId"
"""Makes a run a child, shown below its parent."""


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


def database_path(uri: str) -> Path:
    """The file of an SQLite URI."""
    return Path(unquote(urlparse(uri).path)[1:])


def read_run(uri: str | None, run_id: str) -> Run:
    """A run as the store holds it: `.data.params`, `.data.metrics`, `.info.status`."""
    return make_client(tracking_uri(uri)).get_run(run_id)


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
    experiment = _experiment_of(uri, run_id) if run_id else ""
    run = f"/{experiment}/runs/{run_id}{tab and '/' + tab}" if experiment else ""
    return f"{top}/#/experiments{run}?workflowType=machine_learning"


def _experiment_of(uri: str, run_id: str) -> str:
    """The id of a run's experiment; empty where the store does not answer or know the run."""
    try:
        return make_client(uri).get_run(run_id).info.experiment_id
    except (MlflowException, *WRONG_URI):
        return ""


@cache
def git_commit() -> str:
    """The commit of the code, `+` behind it where files differ from it; empty outside git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return described.stdout.strip()


def code_version() -> str:
    """The commit of the code; outside git the name of the job's package, which Ray makes of its
    content, the version of the installed package, or a hash of the files."""
    return git_commit() or PurePath(job_package()).stem or _package_version()


@cache
def _package_version() -> str:
    with suppress(metadata.PackageNotFoundError):
        return f"sddusr {metadata.version('sddusr')}"
    digest, root = hashlib.sha256(), Path(__file__).parents[2]
    for path in sorted(root.glob("*/**/*.py")):
        if path.relative_to(root).parts[0] in ("sddusr", "pipelines", "tune"):
            digest.update(path.read_bytes())
    return f"sddusr, files {digest.hexdigest()[:12]}"


def source_tags() -> dict[str, str]:
    """Tags that tell who makes a run, with which command and code."""
    tags = {
        "mlflow.user": _user(),
        "mlflow.source.name": Path(sys.argv[0]).name,
        "mlflow.source.type": "LOCAL",
        "sddusr.commit": code_version(),
    }
    if commit := git_commit():
        tags["mlflow.source.git.commit"] = commit.rstrip("+")
    return tags


def _user() -> str:
    """The login name, or the user id where a container has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
