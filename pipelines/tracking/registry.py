"""A checkpoint as a version of an MLflow registered model."""

import tempfile
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

import sddusr
from pipelines.tracking.links import DATA_TAG, SCORE_TAG
from sddusr.checkpoint import copy_network
from sddusr.runs.run_folder import ModelEntry

BEST_ALIAS = "best"

LOADER = "sddusr.export.registered_model"

PACKAGES = (
    "einops",
    "jaxtyping",
    "lpips",
    "numpy",
    "opencv-python",
    "pillow",
    "psutil",
    "pyarrow",
    "safetensors",
    "torch",
    "torchvision",
    "tqdm",
)
"""What the code in a registered model imports."""

_PICTURE, _EDGES = np.dtype(np.uint8), np.dtype(np.int64)

SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            TensorSpec(_PICTURE, (-1, -1, 3), "wide"),
            TensorSpec(_PICTURE, (-1, -1, 3), "tele"),
            TensorSpec(_EDGES, (4,), "box"),
        ]
    ),
    outputs=Schema([TensorSpec(_PICTURE, (-1, -1, 3))]),
)
"""RGB pictures of any size; the box of `tele` in the result: y0, y1, x0, x1."""


def register_model(client: MlflowClient, run_id: str, entry: ModelEntry) -> None:
    """Log a run's checkpoint as an MLflow model and register it as a version of `entry.name`; what
    is there already stays as it is."""
    name, tags = entry.name, entry.tags
    logged = _logged(client, run_id, name, tags)
    if str(logged.status) != "READY":
        with tempfile.TemporaryDirectory() as folder:
            _save(Path(folder), entry.checkpoint, run_id, logged.model_id)
            client.log_model_artifacts(logged.model_id, str(Path(folder, "model")))
        client.finalize_logged_model(logged.model_id, "READY")
    _create_once(client, name)
    versions = client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
    if all(version.tags != version.tags | tags for version in versions):
        client.create_model_version(
            name, logged.artifact_location, run_id, tags=tags, model_id=logged.model_id
        )
    _name_best(client, name, tags)


def _name_best(client: MlflowClient, name: str, tags: Mapping[str, str]) -> None:
    """Give the alias `best` to the highest validation score among the versions that were validated
    on the same data; of equal ones to the first."""
    if not {SCORE_TAG, DATA_TAG} <= set(tags):
        return
    rivals = [
        version
        for version in client.search_model_versions(f"name='{name}'")
        if version.tags.get(DATA_TAG) == tags[DATA_TAG] and SCORE_TAG in version.tags
    ]
    best = max(rivals, key=lambda v: (float(v.tags[SCORE_TAG]), -int(v.version)))
    client.set_registered_model_alias(name, BEST_ALIAS, best.version)


def _logged(client: MlflowClient, run_id: str, name: str, tags: dict[str, str]) -> LoggedModel:
    """The run's model with these tags, made where there is none."""
    experiment_id = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    for model in found:
        if model.name == name and model.tags == model.tags | tags:
            return model
    return client.create_logged_model(experiment_id, name, run_id, tags)


def _create_once(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _save(folder: Path, checkpoint: str, run_id: str, model_id: str) -> None:
    """Write the model's folder: a checkpoint without its training state, and the code that reads
    it."""
    data = folder / "sddusr"
    copy_network(checkpoint, str(data))
    with warnings.catch_warnings():
        # On import: type hints of MLflow's own; on saving: no example, the signature is given.
        warnings.simplefilter("ignore", UserWarning)
        from mlflow import pyfunc

        pyfunc.save_model(
            str(folder / "model"),
            loader_module=LOADER,
            data_path=str(data),
            code_paths=[str(Path(sddusr.__path__[0]))],
            signature=SIGNATURE,
            pip_requirements=[f"{name}=={_version(name)}" for name in PACKAGES],
            mlflow_model=Model(run_id=run_id, model_id=model_id),
        )


def _version(package: str) -> str:
    """Without the local part, such as torch's `+cpu`, which no index knows."""
    return metadata.version(package).partition("+")[0]
