"""Networks by name: MLflow's models:/NAME@best, models:/NAME/3, runs:/RUN/NAME, or ours."""

import json
import re
import shutil
import tempfile
from pathlib import Path

from mlflow import artifacts

from pipelines.tracking.client import WRONG_URI, MlflowException, make_client
from pipelines.tracking.links import tracking_uri
from sddusr import pretrained, storage
from sddusr.checkpoint import HASHES, OF_MLFLOW
from sddusr.runs.run_folder import MLFLOW

CACHE = Path("~", ".cache", "sddusr", "models")


def local_checkpoint(place: str, uri: str | None = None, cache: Path = CACHE) -> str:
    """The checkpoint in a model that MLflow names, downloaded into `cache`, or the one that ships
    by that name; any other place as it is.

    Raises:
        ValueError: MLflow has no such model, or it is none of ours.
        OSError: the cache cannot be written.
    """
    if not place.startswith(OF_MLFLOW):
        return pretrained.NAMES.get(place, place)
    cache = cache.expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    store = tracking_uri(uri)
    with tempfile.TemporaryDirectory(dir=cache) as part:
        try:
            run_id = _download(place, store, part)
        except (MlflowException, OSError, *WRONG_URI) as error:
            raise ValueError(
                f"{place}: MLflow at {store} has no such model ({error!s:.200}); its page Models "
                f"lists them; MLFLOW_TRACKING_URI names another store"
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
        folder = cache / re.sub(r"[^\w.@-]+", "-", place)
        shutil.rmtree(folder, ignore_errors=True)
        found[0].rename(folder)
        note = json.dumps({"tracking_uri": store, "run_id": run_id})
        storage.write_atomic(folder / MLFLOW, note.encode())
    return str(folder)


def _download(place: str, store: str, folder: str) -> str:
    """Download a model's files; the run that made it. MLflow would look a registered model up in
    the process's own registry, not in `store`."""
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
        place = client.get_model_version_download_uri(name, version)
    else:
        run_id, _, name = place.removeprefix("runs:/").partition("/")
        experiment_id = client.get_run(run_id).info.experiment_id
        logged = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
        place = next((m.artifact_location for m in logged if m.name == name), place)
    artifacts.download_artifacts(artifact_uri=place, dst_path=folder, tracking_uri=store)
    return run_id
