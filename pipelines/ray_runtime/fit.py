"""Ray Train's workers on a run's folder, until the last step or a stop request."""

import logging
import math
from typing import Any, Protocol, cast

from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pipelines.ray_runtime.backend import PersistentGroup
from pipelines.ray_runtime.final_error import clear_final_error
from pipelines.ray_runtime.stop_request import StoppableWork
from pipelines.ray_runtime.worker import Outcome, store_of, train_worker
from sddusr import storage
from sddusr.cli import command_line
from sddusr.config import Config, to_dict
from sddusr.data.dataset import ShardSet
from sddusr.training.loop import Progress, check_same_run

LOST_TRY_S = 60.0
"""How long Ray Train waits for workers before it counts a try (its own default)."""

SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Ray Train's list of the checkpoints reported in this fit."""

log = logging.getLogger(__name__)


class NodesLostError(RuntimeError):
    """The cluster no longer has room for the run, which can go on later."""


class FitOptions(Protocol):
    """What a fit needs to know; `pipelines.options.train.TrainOptions` says it."""

    @property
    def config(self) -> Config: ...
    @property
    def counts(self) -> tuple[int, int]: ...
    @property
    def max_failures(self) -> int: ...
    @property
    def lost_nodes_s(self) -> float: ...
    @property
    def rank_timeout_s(self) -> int: ...


def earlier_progress(folder: str, config: Config, shards: ShardSet) -> Progress | None:
    """How far the run in `folder` is; None where it is new.

    Raises:
        ValueError: the folder holds a run of another config or other data.
    """
    checkpoint = store_of(folder, config).newest_good()
    if checkpoint is None:
        return None
    check_same_run(checkpoint, config, shards.content_hash)
    return Progress(**checkpoint.progress)


def fit_until_stopped(
    options: FitOptions, workers: ScalingConfig, data: str, folder: str, tracking_run: str
) -> Progress:
    """Train until the last step, or until the command is asked to end.

    Raises:
        StoppedError: SIGTERM or Ctrl-C; a checkpoint was saved.
    """
    stoppable = StoppableWork[Progress | None]()
    progress = stoppable.run(
        lambda: fit_workers(options, workers, data, folder, tracking_run, stoppable.flag)
    )
    if progress is None:
        raise command_line.StoppedError(
            f"stopped; a checkpoint is saved in {folder}, and the same command resumes",
            stoppable.signal_number,
        )
    return progress


def fit_workers(
    options: FitOptions,
    workers: ScalingConfig,
    data: str,
    folder: str,
    tracking_run: str,
    stop_flag: Any = None,
    seconds_metric: str = "",
) -> Progress | None:
    """Let Ray Train's workers train; how far they came, or None where `stop_flag` was set.

    A node that dies while workers are started ends a fit whatever `max_failures` says, so that is
    counted here; as ever, the next fit goes on from the newest checkpoint.

    Args:
        seconds_metric: what a validation calls the time since the run's start; empty for nothing.
    """
    num_failures = 0
    clear_final_error(folder)
    while True:
        storage.remove(storage.join(folder, SNAPSHOT))  # it names checkpoints that were dropped
        trainer = _trainer(options, workers, data, folder, tracking_run, stop_flag, seconds_metric)
        try:
            outcome = Outcome(**cast(Any, trainer.fit().return_value))
        except ControllerError as error:
            if type(error.controller_failure).__name__ == "WorkerGroupStartupTimeoutError":
                raise NodesLostError(
                    f"the cluster has no room for {options.counts[0]} workers any more, and none "
                    f"came in {options.lost_nodes_s:.0f} s; the same command goes on when there is"
                ) from error
            num_failures += 1
            if 0 <= options.max_failures < num_failures:
                raise
            log.warning("workers could not be started (%.200s); once more", error)
        else:
            outcome.raise_error()
            if outcome.stopped:
                return None
            return Progress(**outcome.progress)


def _trainer(
    options: FitOptions,
    workers: ScalingConfig,
    data: str,
    folder: str,
    tracking_run: str,
    stop_flag: Any,
    seconds_metric: str,
) -> TorchTrainer:
    """The trainer. Its folder is the run's, since NO_UPLOAD needs the checkpoints inside it."""
    return TorchTrainer(
        train_worker,
        train_loop_config={
            "config": to_dict(options.config),
            "data": data,
            "folder": folder,
            "run_id": tracking_run,
            "stop_flag": stop_flag,
            "seconds_metric": seconds_metric,
        },
        torch_config=PersistentGroup(timeout_s=options.rank_timeout_s),
        scaling_config=workers,
        run_config=RunConfig(
            name=storage.name(folder),
            storage_path=storage.to_uri(storage.parent(folder)),
            failure_config=FailureConfig(
                max_failures=options.max_failures,
                controller_failure_limit=math.ceil(options.lost_nodes_s / LOST_TRY_S),
            ),
        ),
    )
