"""A rank of a training run: what happens inside a worker of Ray Train."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import ray.train
from ray.train.torch import get_device

from pipelines import cli, tracking
from sddusr import ranks
from sddusr.checkpoint import CheckpointStore
from sddusr.config import Config, from_dict
from sddusr.data import places
from sddusr.data.shards import ShardSet
from sddusr.training import NonFiniteError, train

MILESTONE_FLUSH_S = 2
"""How long a milestone waits for MLflow; what is left is delivered while training goes on."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a rank hands back. Errors that a second try would meet again come back as data: Ray
    Train would start the workers anew for an exception."""

    progress: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    non_finite: bool = False

    def raise_error(self) -> None:
        if self.error:
            raise (NonFiniteError if self.non_finite else ValueError)(self.error)


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """One rank; runs in a process of Ray Train's, which has set up torch.distributed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    config = from_dict(Config, settings["config"])
    try:
        progress = train(
            config,
            ShardSet(settings["data"]),
            store_of(settings["folder"], config),
            RayReporter(settings),
            get_device(),
            settings["run_id"],
        )
    except NonFiniteError as error:
        return asdict(Outcome(error=str(error), non_finite=True))
    except cli.USER_ERRORS as error:
        if ranks.world_size() > 1:
            raise  # the other ranks may wait for this one; Ray Train ends them
        return asdict(Outcome(error=str(error)))
    return asdict(Outcome(progress=asdict(progress)))


class RayReporter:
    """Rank 0 writes to MLflow and the log, and to `metrics.jsonl` where the run's folder is local;
    all ranks meet in `report`."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        config = settings["config"]
        self._num_steps = config["train"]["num_steps"]
        self._folder = settings["folder"]
        self._is_first = ray.train.get_context().get_world_rank() == 0
        self._run = None
        if self._is_first:
            self._run = tracking.TrackedRun(settings["tracking_uri"], settings["run_id"])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._run is not None:
            self._run.log_metrics(metrics, step)
        self._append({"step": step, **metrics})
        kind = next(iter(metrics)).split("/")[0]
        told = " ".join(f"{name.split('/')[-1]} {value:.4g}" for name, value in metrics.items())
        log.info("step %d/%d %s: %s", step, self._num_steps, kind, told)

    def show(self, step: int, pictures: Mapping[str, Any]) -> None:
        for key, picture in pictures.items():
            if self._run is not None:
                self._run.log_picture(key, picture, step)

    def milestone(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._run is not None:
            self._run.flush(MILESTONE_FLUSH_S)
        ray.train.report({"step": step, **metrics})

    def _append(self, row: Mapping[str, float]) -> None:
        if places.is_local(self._folder):
            os.makedirs(self._folder, exist_ok=True)
            with open(places.join(self._folder, "metrics.jsonl"), "a") as file:
                file.write(json.dumps(row) + "\n")


def store_of(folder: str, config: Config) -> CheckpointStore:
    """The checkpoints of the run in `folder`."""
    return CheckpointStore(places.join(folder, "checkpoints"), config.train.keep_checkpoints)
