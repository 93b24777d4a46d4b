"""An evaluation in MLflow: a child of the training run that made the checkpoint."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.tracking.background import describe
from pipelines.tracking.inputs import CONTEXT
from pipelines.tracking.links import code_version
from pipelines.tracking.mirror import noted_run
from sddusr import storage
from sddusr.checkpoint import Checkpoint
from sddusr.data.dataset import ShardSet
from sddusr.evaluation.results import ImageScores
from sddusr.runs.checked_json import DamagedError
from sddusr.runs.inputs import Origin, RunInputs, datasets_of, read_inputs
from sddusr.runs.run_folder import CONFIG, IMAGES, LINKS, METRICS, MLFLOW, STATUS, RunFolder
from sddusr.secrets import mask

log = logging.getLogger(__name__)


def describe_evaluation(
    run: RunFolder,
    uri: str,
    *,
    experiment: str,
    shards: ShardSet,
    split: str,
    checkpoint: Checkpoint | None,
    params: Mapping[str, Any],
    metrics: Iterable[str],
) -> None:
    """Say what an evaluation is. What was scored otherwise, or with other code, in the same folder
    before is another run, which stays in MLflow as it is.

    Args:
        params: how pictures are scored.
        metrics: names of the checkpoint's own scores.
    """
    origin = None if checkpoint is None else origin_of(checkpoint, tuple(metrics))
    inputs = RunInputs(datasets=datasets_of(shards, (split,)), origin=origin)
    params = {key: str(value) for key, value in params.items()} | {"code": code_version()}
    forget_other(run, params, inputs)
    scored = origin.checkpoint if origin else "pictures"
    describe(
        run,
        uri,
        name=f"evaluate {scored} {split}",
        experiment=(origin.experiment if origin else "") or experiment,
        params=params | {"data_hash": shards.content_hash},
        tags={"sddusr.evaluation": CONTEXT[split]},
        inputs=inputs,
    )


def hash_of(images: Sequence[ImageScores]) -> str:
    """Hash of all scores. An evaluation with other scores is another run in MLflow."""
    rows = [image.as_row() for image in images]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def origin_of(checkpoint: Checkpoint, metrics: tuple[str, ...]) -> Origin:
    """Where a checkpoint comes from, by its run's folder or what its download noted."""
    folder = storage.parent(checkpoint.place)
    root = storage.parent(folder) if storage.name(folder) == "checkpoints" else ""
    config = None
    if root:
        try:
            config = RunFolder(root).config()
        except (DamagedError, OSError) as error:
            log.warning("the evaluation is not linked to its training run: %s", error)
    name = storage.name(checkpoint.place)
    step = checkpoint.progress.get("step")
    return Origin(
        checkpoint=name if root or step is None else f"step-{step:08d}",
        key=config.key if config else "",
        experiment=config.experiment if config else "",
        run_id=noted_run(root or checkpoint.place) or checkpoint.progress.get("tracking_run", ""),
        metrics=metrics,
    )


def forget_other(
    run: RunFolder, params: Mapping[str, str], inputs: RunInputs | None = None
) -> None:
    """Make the folder a new run where it holds one of other parameters or inputs, which stays in
    MLflow as it is."""
    if not _is_same(run, params, inputs or RunInputs()):
        _forget(run)


def _is_same(run: RunFolder, params: Mapping[str, str], inputs: RunInputs) -> bool:
    """Whether the folder holds this very evaluation."""
    try:
        config, earlier = run.config(), read_inputs(run)
    except DamagedError:
        return False
    if config is None:
        return True
    return earlier == inputs and all(config.params.get(k) == mask(v) for k, v in params.items())


def _forget(run: RunFolder) -> None:
    for name in (CONFIG, MLFLOW, STATUS, LINKS):
        storage.remove(run.place(name))
    for name in (METRICS, IMAGES):
        if storage.exists(run.place(name)):
            storage.remove_folder(run.place(name))
