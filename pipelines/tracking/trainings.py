"""A training run in MLflow: what it is, and the model it registers."""

from pipelines.tracking.background import describe, mirror
from pipelines.tracking.links import DATA_TAG, SCORE_TAG
from sddusr import storage
from sddusr.checkpoint import resolve
from sddusr.config import Config, flatten, to_dict
from sddusr.data.dataset import ShardSet
from sddusr.runs.inputs import RunInputs, datasets_of
from sddusr.runs.run_folder import RunFolder
from sddusr.training.loop import Progress


def describe_training(
    run: RunFolder,
    uri: str,
    *,
    name: str,
    experiment: str,
    preset: str,
    config: Config,
    shards: ShardSet,
    parent: str | None,
) -> None:
    """Say what the run is; one that goes on keeps its MLflow run."""
    describe(
        run,
        uri,
        name=name,
        experiment=experiment,
        params=flatten(to_dict(config)) | {"data_hash": shards.content_hash},
        tags={"sddusr.data": shards.root, "sddusr.preset": preset},
        parent=parent or "",
        inputs=RunInputs(datasets=datasets_of(shards, ("train", "val"))),
    )


def mirror_finished(run: RunFolder, uri: str, wait_s: float) -> str:
    """Send what MLflow still misses of a finished run; its MLflow id."""
    if run.config() is None:
        return ""
    run.end("finished")
    return mirror(run.folder, uri, wait_s)


def register_best(run: RunFolder, name: str, progress: Progress, shards: ShardSet) -> None:
    """Ask for the best checkpoint to become a version of the registered model `name`; the empty
    name registers none."""
    if name:
        place = resolve(run.folder)
        tags = {"sddusr.checkpoint": storage.name(place)}
        if progress.best_step:
            tags |= {SCORE_TAG: f"{progress.best_score:.4f}", DATA_TAG: shards.content_hash}
        run.register_model(name, place, tags)
