"""Networks by name: MLflow's models:/NAME@best, models:/NAME/3, runs:/RUN/NAME, or ours."""

import hashlib
import json
import logging
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mlflow import artifacts

from pipelines.tracking.client import (
    WRONG_URI,
    MlflowException,
    UnreachableError,
    UnusableError,
    make_client,
    translated,
)
from pipelines.tracking.links import tracking_uri
from sddusr import pretrained, storage
from sddusr.checkpoint import HASHES, OF_MLFLOW, read_checkpoint
from sddusr.runs.run_folder import MLFLOW

CACHE = Path("~", ".cache", "sddusr", "models")

log = logging.getLogger(__name__)


class Source(NamedTuple):
    """The model that a name refers to in a store."""

    label: str
    """Name and version; of a run's model, run and name."""
    run_id: str
    """The run that made it."""
    place: str
    """Path or URI of its files."""


def local_checkpoint(place: str, uri: str | None = None, cache: Path = CACHE) -> str:
    """The checkpoint in a model that MLflow names, downloaded once into `cache`, or the one that
    ships by that name; any other place as it is.

    While MLflow is unreachable, a name refers to the model that it referred to last. Any number of
    processes may ask at a time: a download appears in the cache whole.

    Raises:
        ValueError: MLflow has no such model, or it is none of ours.
        OSError: the cache cannot be written.
    """
    if not place.startswith(OF_MLFLOW):
        return pretrained.NAMES.get(place, place)
    cache, store = cache.expanduser(), tracking_uri(uri)
    cache.mkdir(parents=True, exist_ok=True)
    note = cache / f"{_digest(store, place)}.json"
    try:
        source: Source = translated(lambda: _find(place, store), is_opening=True)
    except UnusableError as error:
        raise ValueError(
            f"{place}: MLflow at {store} has no such model ({error!s:.200}); its page Models "
            f"lists them; MLFLOW_TRACKING_URI names another store"
        ) from error
    except UnreachableError as error:
        return _remembered(note, place, store, error)
    name = re.sub(r"[^\w.-]+", "-", source.label)
    folder = cache / f"{name}-{_digest(store, *source)}"
    if not _is_whole(folder):
        _download(source, place, store, folder)
    storage.write_atomic(note, json.dumps({"place": place, "folder": folder.name}).encode())
    return str(folder)


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _is_whole(folder: Path) -> bool:
    """Whether the folder has a checkpoint with correct hashes."""
    try:
        read_checkpoint(str(folder))
    except (ValueError, OSError):
        return False
    return True


def _remembered(note: Path, place: str, store: str, error: UnreachableError) -> str:
    """The checkpoint that a name stood for when MLflow answered last.

    Raises:
        ValueError: there is none in the cache.
    """
    with suppress(OSError, ValueError, KeyError, TypeError):
        folder = note.parent / storage.read_json(note)["folder"]
        if _is_whole(folder):
            log.warning(
                "MLflow at %s is unreachable (%.200s); taking %s as it was found last, %s",
                store,
                error,
                place,
                folder,
            )
            return str(folder)
    raise ValueError(
        f"{place}: MLflow at {store} is unreachable ({error!s:.200}), and the model is not in "
        f"{note.parent} yet; try again, or give a run's folder"
    ) from error


def _find(place: str, store: str) -> Source:
    """Ask a store for a model. MLflow would look a registered one up in the process's own
    registry, not in `store`."""
    client = make_client(store)
    if place.startswith("models:/"):
        name, at, alias = place.removeprefix("models:/").partition("@")
        if at:
            version = client.get_model_version_by_alias(name, alias).version
        else:
            name, _, version = name.rpartition("/")
            if version == "latest":
                versions = client.search_model_versions(f"name='{name}'")
                version = max((v.version for v in versions), key=int, default="latest")
        run_id = client.get_model_version(name, version).run_id or ""
        files = client.get_model_version_download_uri(name, version)
        return Source(f"{name}-{version}", run_id, files)
    run_id, _, name = place.removeprefix("runs:/").partition("/")
    experiment_id = client.get_run(run_id).info.experiment_id
    logged = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    files = next((m.artifact_location for m in logged if m.name == name), place)
    return Source(f"{run_id}-{name}", run_id, files)


def _download(source: Source, place: str, store: str, folder: Path) -> None:
    """Download a model aside and move its checkpoint to `folder`; where another process was
    faster, its checkpoint stays."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as part:
        try:
            artifacts.download_artifacts(
                artifact_uri=source.place, dst_path=part, tracking_uri=store
            )
        except (MlflowException, OSError, *WRONG_URI) as error:
            raise ValueError(
                f"{place}: its files cannot be downloaded from {source.place} ({error!s:.200}); "
                f"try again, or give a run's folder"
            ) from error
        found = [
            path.parent
            for path in Path(part).rglob(HASHES)
            if "code" not in path.relative_to(part).parts  # which has the network that ships
        ]
        if len(found) != 1:
            raise ValueError(
                f"{place}: holds {len(found)} checkpoints with their hashes, need one; give a "
                f"run's folder, or register the run again"
            )
        note = json.dumps({"tracking_uri": store, "run_id": source.run_id})
        storage.write_atomic(found[0] / MLFLOW, note.encode())
        if folder.exists() and not _is_whole(folder):
            with suppress(FileNotFoundError):  # another process moved it
                folder.rename(Path(part, "damaged"))
        try:
            found[0].rename(folder)
        except OSError:
            if not _is_whole(folder):
                raise
