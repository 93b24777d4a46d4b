"""One trial: the loop of every training run, hosted in a Tune function or in Ray Train."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from ray import tune
from ray.train import ScalingConfig

from pipelines.ray_runtime.worker import store_of
from pipelines.train import TrainOptions, fit_workers
from sddusr import storage
from sddusr.checkpoint import CheckpointStore
from sddusr.config import Config
from sddusr.data.dataset import ShardSet
from sddusr.inference.memory import peak_bytes
from sddusr.model.sddusr import SDDuSR, num_parameters
from sddusr.training.loop import SCORE, train
from sddusr.training.signals import Wish
from sddusr.training.throughput import log_line
from tune import children
from tune.ledger import Ledger, Point, Progress, Trial
from tune.space import Space, with_values

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all trials of a search share."""

    folder: str
    """The search's."""
    data: str
    config: Config
    """What a trial's values change."""
    space: Space
    home: children.Home
    """Where its runs go in MLflow."""
    deadline: float = float("inf")
    """Time (epoch, seconds) at which trials save and leave, to be resumed."""
    num_threads: int = 1
    use_gpu: bool = False
    scaling: ScalingConfig | None = None
    """Workers of Ray Train; None trains in the trial's own process."""
    max_failures: int = 3
    reports_scores: bool = False
    """Whether a scheduler in Tune wants to know each score."""


def run_trial(proposed: Mapping[str, Any], setting: Setting) -> None:
    """Tune's function: train, or go on with, the trial `proposed["number"]`.

    Whatever is raised in it would be raised again, so it ends the trial with its reason and not
    the search; only a process that dies is started again, by Tune.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    ledger = Ledger(setting.folder)
    trial = ledger.trial(proposed["number"])
    try:
        config = with_values(setting.config, trial.values)
        if setting.scaling is None:
            is_done = train_here(setting, ledger, trial, config)
        else:
            is_done = train_in_workers(setting, ledger, trial, config)
        if is_done:
            ledger.end(trial.number, "finished")
    except Exception as error:
        log.exception("trial %d failed", trial.number)
        reason = str(error) or type(error).__name__
        ledger.end(trial.number, "failed", " ".join(reason.split())[:500])


def train_here(setting: Setting, ledger: Ledger, trial: Trial, config: Config) -> bool:
    """Train in this process; whether the last step was reached."""
    torch.set_num_threads(setting.num_threads)
    device = torch.device("cuda" if setting.use_gpu else "cpu")
    store = store_of(trial.folder, config)
    reporter = TrialReporter(setting, ledger, trial, config, device, _step_of(store))
    try:
        shards = ShardSet(setting.data)
        told = train(config, shards, store, reporter, device, reporter.run.run_id, reporter.wish)
    except BaseException:  # Tune itself ends a function by SystemExit
        reporter.run.leave(0)
        raise
    reporter.run.leave(setting.home.wait_s)
    return told.step == config.train.num_steps


def _step_of(store: CheckpointStore) -> int:
    """How far the newest good checkpoint is."""
    checkpoint = store.newest_good()
    return checkpoint.progress["step"] if checkpoint else 0


class TrialReporter:
    """Matches `sddusr.training.loop.Reporter`: to MLflow, the log and the ledger; and to Tune,
    where a scheduler decides by scores.

    A score goes to Tune from between two steps, so that a trial that is to stop early can leave as
    any other: with a checkpoint, and with all that it logged delivered.

    Args:
        step: where the trial goes on; what the ledger tells of later steps is done again.
    """

    def __init__(
        self,
        setting: Setting,
        ledger: Ledger,
        trial: Trial,
        config: Config,
        device: torch.device,
        step: int,
    ) -> None:
        self.run = children.open_child(setting.home, trial, setting.space, config)
        self._setting, self._ledger, self._number = setting, ledger, trial.number
        self._config, self._device = config, device
        self._curve = [point for point in trial.curve if point.step <= step]
        self._earlier_s = self._curve[-1].seconds if self._curve else 0.0
        self._started_s = time.monotonic()
        self._num_parameters = num_parameters(SDDuSR(config.model))
        self._untold: Point | None = None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log_metrics(metrics, step)
        settings = self._config.train
        line = log_line(step, settings.num_steps, metrics, settings.batch_size)
        log.info("trial %d, %s", self._number, line)
        if SCORE in metrics:
            self._note(step, metrics[SCORE])

    def _note(self, step: int, score: float) -> None:
        seconds = self._earlier_s + time.monotonic() - self._started_s
        self._untold = Point(step, score, seconds)
        self._curve.append(self._untold)
        progress = Progress(
            curve=tuple(self._curve),
            peak_bytes=peak_bytes(self._device),
            num_parameters=self._num_parameters,
        )
        self._ledger.note(self._number, progress)

    def show(self, step: int, pictures: Mapping[str, Any]) -> None:
        for key, picture in pictures.items():
            self.run.log_picture(key, picture, step)

    def keep_file(self, path: str) -> None:
        self.run.log_artifact(path, "profile", copy=True)

    def milestone(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing waits for it: a trial is one rank."""

    def wish(self) -> Wish:
        """What the loop asks after each step."""
        if self._untold and self._setting.reports_scores:
            told, self._untold = self._untold, None
            tune.report({"step": told.step, SCORE: told.score})  # returns when Tune has decided
            if self._ledger.is_over(self._number):
                return Wish.STOP
        return Wish.STOP if time.time() >= self._setting.deadline else Wish.GO_ON


def train_in_workers(setting: Setting, ledger: Ledger, trial: Trial, config: Config) -> bool:
    """Train with Ray Train to the last step."""
    assert setting.scaling is not None
    run = children.open_child(setting.home, trial, setting.space, config)
    options = TrainOptions(
        config=config, max_failures=setting.max_failures, tracking_wait_s=setting.home.wait_s
    )
    started_s = time.monotonic()
    try:
        told = fit_workers(options, setting.scaling, setting.data, trial.folder, run)
        seconds = time.monotonic() - started_s
        curve = _curve_of(trial.folder) or [(told.best_step, told.best_score)]
        ledger.note(
            trial.number,
            Progress(
                curve=tuple(Point(step, score, seconds) for step, score in curve),
                num_parameters=num_parameters(SDDuSR(config.model)),
            ),
        )
    finally:
        run.leave(setting.home.wait_s)
    return True


def _curve_of(folder: str) -> list[tuple[int, float]]:
    """Step and score of a run's validations; none where its folder is a URI."""
    place = storage.join(folder, "metrics.jsonl")
    if not (storage.is_local(folder) and storage.exists(place)):
        return []
    rows = map(json.loads, storage.read_bytes(place).splitlines())
    return sorted({row["step"]: row[SCORE] for row in rows if SCORE in row}.items())
