#!/usr/bin/env python3
"""Train on shards with Ray Train: `python pipelines/train.py [PRESET] --data DIR`."""

import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path

if not __package__:  # a script of a checkout, in which only sddusr is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import pipelines  # noqa: F401  # names what is not installed

from ray.train import Result, ScalingConfig

from pipelines.options.train import TrainOptions
from pipelines.ray_runtime import cluster, persistent_paths
from pipelines.ray_runtime.capacity import scaling
from pipelines.ray_runtime.fit import NodesLostError, earlier_progress, fit_until_stopped
from pipelines.ray_runtime.preflight import (
    check_data,
    check_shared,
    check_weights,
    samples_shards,
    with_absolute_weights,
)
from pipelines.ray_runtime.results import run_result
from pipelines.tracking import links
from pipelines.tracking.background import mirrored
from pipelines.tracking.trainings import describe_training, mirror_finished, register_best
from sddusr import storage as places
from sddusr.cli import command_line
from sddusr.config import PRESETS
from sddusr.data.dataset import ShardSet
from sddusr.data.folder_lock import hold_lock
from sddusr.runs.own_folders import check_run_folder, check_run_name, delete_run
from sddusr.runs.run_folder import RunFolder
from sddusr.training.loop import NonFiniteError, Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Where a finished run lies and how well it did."""

    folder: str
    progress: Progress
    run_id: str
    """MLflow's; empty while MLflow is unreachable."""

    @property
    def ray_result(self) -> Result:
        """Ray's own object: `checkpoint`, `best_checkpoints`, `metrics_dataframe` of the whole run,
        whatever it was resumed from."""
        return run_result(self.folder)


def run_training(options: TrainOptions) -> TrainResult:
    """Start or resume the run and wait for its end; a finished run starts nothing.

    Joins the cluster of `ray.init` or RAY_ADDRESS, or starts one in this process.

    Returns:
        Where the run lies, how well it did, and as `.ray_result` Ray's own `Result`.

    Raises:
        ValueError, OSError: a name, options, data or weights that cannot be used.
        NonFiniteError: a loss or gradient is NaN or infinite.
        NodesLostError: the nodes that the run lost did not come back.
        StoppedError: SIGTERM or Ctrl-C; a checkpoint was saved.
    """
    if options.name is not None:
        check_run_name(options.name)
    options = replace(options, config=with_absolute_weights(options.config, options.tracking_uri))
    storage, uri, data = _places(options)
    if data is None:
        _workers(options)  # what cannot run makes no shards
        data = samples_shards(storage, options.config)
    shards = ShardSet(data)
    check_data(shards, options.config)
    name = options.run_name(shards.content_hash)
    folder = places.join(storage, name)
    check_run_folder(folder)
    earlier = None if options.fresh else earlier_progress(folder, options.config, shards)
    if earlier is not None and earlier.step == options.config.train.num_steps:
        log.info("run %s in %s is finished; --fresh trains anew", name, folder)
        run = RunFolder(folder)
        register_best(run, options.model_name, earlier, shards)  # a start may have ended before
        run_id = mirror_finished(run, uri, options.tracking_wait_s)
        return TrainResult(folder=folder, progress=earlier, run_id=run_id or earlier.tracking_run)
    workers = _workers(options)
    if earlier is None:
        check_weights(options.config)
    check_shared(storage, shards.root, uri, options.config)
    with hold_lock(places.join(storage, f".{name}.lock"), f"run {name} in {folder}"):
        return _train_locked(options, workers, shards, folder, name, uri)


def _train_locked(
    options: TrainOptions,
    workers: ScalingConfig,
    shards: ShardSet,
    folder: str,
    name: str,
    uri: str,
) -> TrainResult:
    """Train and register, in a folder that no other run writes to."""
    if options.fresh:
        delete_run(folder)
    run = RunFolder(folder)
    describe_training(
        run,
        uri,
        name=name,
        experiment=options.experiment,
        preset=options.preset,
        config=options.config,
        shards=shards,
        parent=options.parent_run,
    )
    with mirrored(run, uri, options.tracking_wait_s) as mirrored_run:
        run_id = mirrored_run.run_id
        log.info("run %s in %s, MLflow run %s", name, folder, run_id or "is created later")
        progress = fit_until_stopped(options, workers, shards.root, folder, run_id)
        register_best(run, options.model_name, progress, shards)
    return TrainResult(folder=folder, progress=progress, run_id=mirrored_run.run_id)


def _places(options: TrainOptions) -> tuple[str, str, str | None]:
    """Storage, tracking store and data, as every process of the run is told of them.

    Raises:
        ValueError: one of them is relative to a folder that will be deleted.
    """
    data = persistent_paths.persistent_path(options.data, "--data") if options.data else None
    uri = links.tracking_uri(options.tracking_uri)
    return persistent_paths.storage_folder(options.storage), uri, data


def _workers(options: TrainOptions) -> ScalingConfig:
    """What Ray Train starts in the cluster, which is started where there is none.

    Raises:
        ValueError: the cluster has no room for that, or no place that all its nodes see.
    """
    cluster.init_ray()
    persistent_paths.check_is_named(options.storage, "--storage", "a folder or URI")
    return scaling(options, options.config.train.batch_size)


def main(options: TrainOptions) -> int:
    try:
        result = run_training(options)
    except NonFiniteError as error:
        log.error("stopped: %s; the checkpoints before it are kept", error)
        return 1
    except NodesLostError as error:
        log.error("stopped: %s", error)
        return 1
    progress = result.progress
    log.info("done: %d steps", progress.step)
    if progress.best_step:
        log.info("best: %.3f dB at step %d", progress.best_score, progress.best_step)
    print(f"checkpoints  {places.join(result.folder, 'checkpoints')}")
    print(f"MLflow       {links.how_to_look(options.tracking_uri)}")
    page = links.run_page(options.tracking_uri, result.run_id, "model-metrics")
    print(f"this run     {page}")
    return 0


HELP = """Train on shards with Ray Train, or go on with a run: the same command resumes.

The first word is a preset; without one it is demo, which needs no data and no download. A preset's
own help lists every flag: python pipelines/train.py paper --help. Examples:

python pipelines/train.py

python pipelines/train.py paper --data shards --train.num-steps 100000

python pipelines/train.py paper --data shards --losses.stage full --workers 4
"""


def command() -> None:
    """Parse the command line; the first word names the preset, `demo` where there is none."""
    presets = {
        name: TrainOptions(preset=name, config=config) for name, (_, config) in PRESETS.items()
    }
    described = {name: description for name, (description, _) in PRESETS.items()}
    command_line.run_with_presets(main, presets, described, HELP)


if __name__ == "__main__":
    from pipelines.train import command as imported_command

    imported_command()
