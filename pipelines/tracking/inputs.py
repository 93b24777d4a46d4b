"""What a run starts from, in MLflow: datasets as the run's inputs; of an evaluation, the training
run above it and the logged model that it scores, with the scores."""

import json
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModel, LoggedModelInput
from mlflow.types import ColSpec, DataType, Schema
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from pipelines.tracking import client as mlflow
from pipelines.tracking.client import MlflowException, RefusedError, translated
from pipelines.tracking.links import KEY_TAG, PARENT_TAG
from pipelines.tracking.metrics import Target, allowed
from sddusr.data.schema import SCHEMA
from sddusr.runs.checked_json import DamagedError
from sddusr.runs.inputs import DatasetEntry, Origin, RunInputs, read_inputs
from sddusr.runs.run_folder import INPUTS, Version

CHECKPOINT_TAG = "sddusr.checkpoint"
"""Of a logged model: the name of its checkpoint's folder."""

CONTEXT = {"train": "training", "val": "validation", "test": "test"}
"""Split -> what MLflow calls the use that a run makes of a dataset."""

MAX_DIGEST = 36
"""Characters of a dataset's digest that MLflow's databases hold."""

_TYPES = {"string": DataType.string, "binary": DataType.binary, "int32": DataType.integer}


class InputSender:
    """Sends what the folder's inputs.json says and the MLflow run does not have."""

    def __init__(self, target: Target) -> None:
        self._target, self._run = target, target.run
        self._sent: Version | None = None

    def send(self) -> None:
        """Send what is missing; each dataset, link and score once.

        Raises:
            UnreachableError: MLflow does not answer now; the next call goes on from here.
        """
        version = self._run.version(INPUTS)
        if version is None or version == self._sent:
            return
        try:
            inputs = read_inputs(self._run)
        except DamagedError as error:
            self._target.report(error.place, str(error))
            return
        origin = inputs.origin
        try:
            translated(lambda: self._send_datasets(inputs.datasets))
            is_complete = origin is None or translated(lambda: self._send_origin(inputs, origin))
        except RefusedError as error:
            self._target.check_not_deleted()
            self._target.report(f"{INPUTS} of {self._run.folder}", str(error))
            is_complete = True
        self._sent = version if is_complete else None

    def _send_datasets(self, entries: Iterable[DatasetEntry]) -> None:
        client, run_id = self._target.client, self._target.run_id
        there = {
            (known.dataset.name, known.dataset.digest)
            for known in client.get_run(run_id).inputs.dataset_inputs
        }
        missing = [
            dataset_input(entry) for entry in entries if (entry.name, digest_of(entry)) not in there
        ]
        if missing:
            client.log_inputs(run_id, datasets=missing)
            self._target.num_sent += 1

    def _send_origin(self, inputs: RunInputs, origin: Origin) -> bool:
        """Link an evaluation to its training run and its model; False where the run is to come."""
        what = f"training run of {self._run.folder}"
        training = self._training_run(origin)
        if not training and not origin.key:
            return True  # made elsewhere
        if not training:
            self._target.report(
                what, "it is not in this MLflow; upload it first, then this evaluation again"
            )
            return False
        self._target.problems.pop(what, None)
        client, run_id = self._target.client, self._target.run_id
        run = client.get_run(run_id)
        if run.data.tags.get(PARENT_TAG) != training:
            client.set_tag(run_id, PARENT_TAG, training)
            self._target.num_sent += 1
        model = model_of(client, training, origin.checkpoint)
        if model is None:
            return True
        if all(known.model_id != model.model_id for known in run.inputs.model_inputs):
            client.log_inputs(run_id, models=[LoggedModelInput(model.model_id)])
            self._target.num_sent += 1
        data = {allowed(key): inputs.dataset_of(key) for key in origin.metrics}
        for step in self._run.segments():
            send_model_metrics(client, run_id, model.model_id, step, data)
        return True

    def _training_run(self, origin: Origin) -> str:
        """MLflow's id of the run that wrote the checkpoint; empty where it is not there."""
        client = self._target.client
        if origin.run_id and mlflow.is_active(client, origin.run_id):
            return origin.run_id
        experiment = client.get_experiment_by_name(origin.experiment) if origin.key else None
        if experiment is None:
            return ""
        query = f"tags.`{KEY_TAG}` = '{origin.key}'"
        found = client.search_runs([experiment.experiment_id], query)
        return found[0].info.run_id if found else ""


def dataset_input(entry: DatasetEntry) -> DatasetInput:
    """A split as MLflow describes a dataset; `mlflow.data.get_source` finds its files again."""
    source_type, source = _source(entry.source)
    columns = Schema([ColSpec(_type(field.type), field.name) for field in SCHEMA])
    profile = {name: getattr(entry, name) for name in ("num_rows", "num_shards", "num_bytes")}
    dataset = Dataset(
        name=entry.name,
        digest=digest_of(entry),
        source_type=source_type,
        source=source,
        schema=json.dumps({"mlflow_colspec": columns.to_dict()}),
        profile=json.dumps(profile),
    )
    return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, CONTEXT[entry.split])])


def digest_of(entry: DatasetEntry) -> str:
    """As much of the manifest's hash as MLflow takes."""
    return entry.digest[:MAX_DIGEST]


def _source(place: str) -> tuple[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # MLflow registers local folders twice
            source = resolve_dataset_source(place)
    except MlflowException:  # a kind of storage that MLflow does not read
        return place.partition("://")[0], json.dumps({"uri": place})
    return source._get_source_type(), source.to_json()


def _type(kind: Any) -> Any:
    """MLflow's type of a column; lists are shown by what they hold."""
    return _TYPES[str(getattr(kind, "value_type", kind))]


def model_of(client: Any, run_id: str, checkpoint: str) -> LoggedModel | None:
    """The logged model that a run made of a checkpoint."""
    experiment_id = client.get_run(run_id).info.experiment_id
    models = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    of_it = (model for model in models if model.tags.get(CHECKPOINT_TAG) == checkpoint)
    return next((model for model in of_it if str(model.status) == "READY"), None)


def send_model_metrics(
    client: Any,
    run_id: str,
    model_id: str,
    step: int,
    data: Mapping[str, DatasetEntry | None],
) -> set[str]:
    """Copy a step's metrics from a run to its logged model, each once.

    Args:
        data: metric -> the data that it was measured on.

    Returns:
        The metrics that the run does not have yet.
    """
    known = client.get_logged_model(model_id).metrics or []
    there = {(metric.key, metric.step) for metric in known}
    points, missing = [], set()
    for key, entry in data.items():
        if (key, step) in there:
            continue
        history = client.get_metric_history(run_id, key)
        point = next((point for point in history if point.step == step), None)
        if point is None:
            missing.add(key)
            continue
        dataset = (entry.name, digest_of(entry)) if entry else (None, None)
        # As the run has it, to the millisecond: MLflow would add any other to the run, too.
        points.append(
            mlflow.Metric(key, point.value, point.timestamp, step, model_id, *dataset, run_id)
        )
    if points:
        client.log_batch(run_id, metrics=points)
    return missing
