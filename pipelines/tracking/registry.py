"""A checkpoint as a logged model of its run, and as a version of a registered model."""

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from pipelines.tracking.client import BusyError
from pipelines.tracking.inputs import CHECKPOINT_TAG, send_model_metrics
from pipelines.tracking.links import DATA_TAG, SCORE_TAG
from pipelines.tracking.metrics import allowed
from pipelines.tracking.model_files import save_model
from sddusr.checkpoint import FOLDER
from sddusr.runs.card import describe_model
from sddusr.runs.inputs import DatasetEntry, read_inputs
from sddusr.runs.run_folder import ModelEntry, RunFolder

BEST_ALIAS = "best"

MODEL_TYPE = "super-resolution"

NOTE_TAG = "mlflow.note.content"
"""What MLflow's pages show as a description."""

NOT_OF_A_MODEL = ("system/", "search/", "train/samples_per_s", "train/step_s", "train/workers",
                  "train/data_wait_share", "train/learning_rate")  # fmt: skip
"""Metrics of the run that say nothing about the network."""


def register_model(
    client: MlflowClient,
    run_id: str,
    run: RunFolder,
    entry: ModelEntry,
    is_reported: Callable[[str], bool] = lambda what: False,
) -> None:
    """Log a run's checkpoint as an MLflow model, with its parameters, scores and data, and register
    it as a version of `entry.name`; what is there already stays as it is.

    Args:
        is_reported: whether a metric of a step was given up.

    Raises:
        BusyError: metrics of the checkpoint's step are not sent yet.
    """
    name, tags = entry.name, entry.tags
    card = describe_model(run, entry)
    logged = _logged(client, run_id, run, entry, card)
    if str(logged.status) != "READY":
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder), entry.checkpoint, card, run_id, logged.model_id)
            client.log_model_artifacts(logged.model_id, str(Path(folder, "model")))
        client.finalize_logged_model(logged.model_id, "READY")
    _link(client, run_id, run, entry, logged, is_reported)
    _create_once(client, name)
    versions = client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
    version = next((each for each in versions if each.tags == each.tags | tags), None)
    if version is None:
        version = client.create_model_version(
            name,
            logged.artifact_location,
            run_id,
            tags=tags,
            model_id=logged.model_id,
            description=card,
        )
    _note_version(client, logged, name, version.version)
    _name_best(client, name, tags)


def _note_version(client: MlflowClient, logged: LoggedModel, name: str, version: str) -> None:
    """Name the version on the logged model's page; a server does so itself, a database does not."""
    tags = client.get_logged_model(logged.model_id).tags
    noted = json.loads(tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
    if all((each["name"], str(each["version"])) != (name, str(version)) for each in noted):
        entries = json.dumps([*noted, {"name": name, "version": str(version)}])
        client.set_logged_model_tags(logged.model_id, {MLFLOW_MODEL_VERSIONS: entries})


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
    if best.description:  # the registered model describes its best version
        client.update_registered_model(name, best.description)


def _logged(
    client: MlflowClient, run_id: str, run: RunFolder, entry: ModelEntry, card: str
) -> LoggedModel:
    """The run's model with these tags, made where there is none."""
    experiment_id = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    for model in found:
        if model.name == entry.name and model.tags == model.tags | entry.tags:
            return model
    config = run.config()
    return client.create_logged_model(
        experiment_id,
        entry.name,
        run_id,
        tags={**entry.tags, NOTE_TAG: card},
        params=dict(config.params) if config else {},
        model_type=MODEL_TYPE,
    )


def _link(
    client: MlflowClient,
    run_id: str,
    run: RunFolder,
    entry: ModelEntry,
    logged: LoggedModel,
    is_reported: Callable[[str], bool],
) -> None:
    """Show the model as the run's output, with the metrics of its step on their data."""
    step = step_of(entry)
    outputs: Any = client.get_run(run_id).outputs
    if all(known.model_id != logged.model_id for known in outputs.model_outputs):
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step)])
    data = metrics_of(run, step)
    missing = send_model_metrics(client, run_id, logged.model_id, step, data)
    if waiting := [key for key in missing if not is_reported(f"{key} of step {step}")]:
        raise BusyError(f"{waiting[0]} of step {step} is not sent yet")


def step_of(entry: ModelEntry) -> int:
    """The step of a checkpoint, from its folder's name; 0 if that has none."""
    match = FOLDER.fullmatch(entry.tags.get(CHECKPOINT_TAG, ""))
    return int(match[1]) if match else 0


def metrics_of(run: RunFolder, step: int) -> dict[str, DatasetEntry | None]:
    """A step's metrics of the network -> the data that they were measured on."""
    if step not in run.segments():
        return {}
    inputs = read_inputs(run)
    keys = (key for row in run.read_segment(step) for key in row if key not in ("step", "time_ms"))
    return {
        allowed(key): inputs.dataset_of(key)
        for key in dict.fromkeys(keys)
        if not key.startswith(NOT_OF_A_MODEL)
    }


def _create_once(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
