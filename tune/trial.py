"""One trial: the loop of every training run, hosted in a Tune function or in Ray Train."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray import tune
from ray.train import ScalingConfig

from pipelines.options.train import TrainOptions
from pipelines.ray_runtime.fit import fit_workers
from pipelines.ray_runtime.gauges import RunGauges, run_name
from pipelines.ray_runtime.stop_request import StopPoll
from pipelines.ray_runtime.system_metrics import SystemMetrics
from pipelines.ray_runtime.worker import store_of
from pipelines.tracking.background import describe
from sddusr.checkpoint import CheckpointStore
from sddusr.cli import command_line
from sddusr.config import Config, flatten, to_dict
from sddusr.data.dataset import ShardSet
from sddusr.inference.memory import peak_bytes
from sddusr.model.sddusr import SDDuSR, num_parameters
from sddusr.runs.inputs import RunInputs
from sddusr.runs.run_folder import FINAL, RunFolder
from sddusr.training.loop import SCORE, train
from sddusr.training.signals import StopRequest
from sddusr.training.throughput import log_line
from tune.space import Space, with_values
from tune.trials import NUM_PARAMETERS, PEAK_MB, SECONDS, Point, SearchFolder, Trial, to_point

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
    tracking_uri: str
    """MLflow, to which the search mirrors its trials."""
    experiment: str
    deadline: float = float("inf")
    """Time (epoch, seconds) at which trials save and leave, to be resumed."""
    stop_flag: Any = None
    """Set once the command was asked to end: trials save and leave, as at the deadline."""
    num_threads: int = 1
    use_gpu: bool = False
    scaling: ScalingConfig | None = None
    """Workers of Ray Train; None trains in the trial's own process."""
    max_failures: int = 3
    reports_scores: bool = False
    """Whether a scheduler in Tune wants to know each score."""
    inputs: RunInputs | None = None
    """The data, for MLflow."""


def describe_trial(setting: Setting, run: RunFolder, number: int, values: dict[str, Any]) -> None:
    """Say what a trial is, before it starts: its values under short names, and the whole config."""
    names = setting.space.short_names()
    searched = {names[field]: value for field, value in values.items()}
    described = " ".join(f"{name}={_short(value)}" for name, value in searched.items())
    config = with_values(setting.config, values)
    describe(
        run,
        setting.tracking_uri,
        name=f"trial {number} {described}",
        experiment=setting.experiment,
        params=searched | flatten(to_dict(config)),
        tags={"sddusr.trial": str(number)},
        inputs=setting.inputs,
    )


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def run_trial(proposed: Mapping[str, Any], setting: Setting) -> None:
    """Tune's function: train, or go on with, the trial `proposed["number"]`.

    Whatever is raised in it would be raised again, so it ends the trial with its reason and not
    the search; only a process that dies is started again, by Tune.
    """
    command_line.mask_streams()
    command_line.log_lines()
    search = SearchFolder(setting.folder)
    trial = search.trial(proposed["number"])
    run = search.run(trial.number)
    try:
        config = with_values(setting.config, trial.values)
        if run.status().state not in FINAL:
            run.set_state("running")
        if setting.scaling is None:
            is_done = train_here(setting, search, trial, config)
        else:
            is_done = train_in_workers(setting, trial, config)
        if is_done:
            run.end("finished", step=config.train.num_steps)
    except Exception as error:
        log.exception("trial %d failed", trial.number)
        reason = str(error) or type(error).__name__
        run.end("failed", " ".join(reason.split())[:500])


def train_here(setting: Setting, search: SearchFolder, trial: Trial, config: Config) -> bool:
    """Train in this process; whether the last step was reached."""
    torch.set_num_threads(setting.num_threads)
    device = torch.device("cuda" if setting.use_gpu else "cpu")
    if setting.use_gpu:
        take_share_of_gpu()
    store = store_of(trial.folder, config)
    reporter = TrialReporter(setting, search, trial, config, device, _step_of(store))
    shards = ShardSet(setting.data)
    reached = train(config, shards, store, reporter, device, "", reporter.poll_request)
    return reached.step == config.train.num_steps


def take_share_of_gpu() -> None:
    """Keep to this trial's share of its card, by which its validations plan too."""
    share = ray.get_runtime_context().get_assigned_resources().get("GPU", 1.0)
    if share < 1:
        torch.cuda.set_per_process_memory_fraction(share)


def _step_of(store: CheckpointStore) -> int:
    """How far the newest good checkpoint is."""
    checkpoint = store.newest_good()
    return checkpoint.progress["step"] if checkpoint else 0


class TrialReporter:
    """Matches `sddusr.training.loop.Reporter`: to the trial's folder and the log; and to Tune,
    where a scheduler decides by scores.

    A score goes to Tune from between two steps, so that a trial that is to stop early can leave as
    any other, with a checkpoint.

    Args:
        step: where the trial goes on; later steps are repeated.
    """

    def __init__(
        self,
        setting: Setting,
        search: SearchFolder,
        trial: Trial,
        config: Config,
        device: torch.device,
        step: int,
    ) -> None:
        self.run = search.run(trial.number)
        self._setting, self._search, self._number = setting, search, trial.number
        self._config, self._device = config, device
        earlier = [point for point in trial.curve if point.step <= step]
        self._best = max((point.score for point in earlier), default=-float("inf"))
        self._earlier_s = earlier[-1].seconds if earlier else 0.0
        self._started_s = time.monotonic()
        self._num_parameters = num_parameters(SDDuSR(config.model))
        self._unreported: Point | None = None
        self._is_stop_requested = StopPoll(setting.stop_flag)
        self._system = SystemMetrics()
        self._gauges = RunGauges(run_name(self.run.folder), rank=0)

    def measure(self, metrics: Mapping[str, float]) -> None:
        self._gauges.set(metrics)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        beside = self._costs(step, metrics[SCORE]) if SCORE in metrics else self._system.read()
        row = {**metrics, **beside}
        self.run.log_metrics(step, row)
        settings = self._config.train
        line = log_line(step, settings.num_steps, metrics, settings.batch_size)
        log.info("trial %d, %s", self._number, line)
        if SCORE in metrics:
            self._unreported = to_point([row | {"step": step}])

    def _costs(self, step: int, score: float) -> dict[str, float]:
        """What a validation tells of the trial besides its scores."""
        self._best = max(self._best, score)
        costs = {
            "search/best_psnr": self._best,
            "search/num_steps": step,
            SECONDS: self._earlier_s + time.monotonic() - self._started_s,
            NUM_PARAMETERS: self._num_parameters,
        }
        peak = peak_bytes(self._device)
        return costs | ({PEAK_MB: peak / 1e6} if peak else {})

    def show(self, step: int, pictures: Mapping[str, Any]) -> None:
        for key, picture in pictures.items():
            self.run.log_image(step, key, picture)

    def keep_file(self, path: str) -> None:
        self.run.add_artifact(path, "profile")

    def milestone(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing waits for it: a trial is one rank."""

    def poll_request(self) -> StopRequest:
        """What the loop asks after each step."""
        if self._unreported and self._setting.reports_scores:
            point, self._unreported = self._unreported, None
            tune.report({"step": point.step, SCORE: point.score})  # returns when Tune has decided
            if self._search.is_over(self._number):
                return StopRequest.STOP
        is_over = time.time() >= self._setting.deadline or self._is_stop_requested()
        return StopRequest.STOP if is_over else StopRequest.GO_ON


def train_in_workers(setting: Setting, trial: Trial, config: Config) -> bool:
    """Train with Ray Train; whether the last step was reached."""
    assert setting.scaling is not None
    options = TrainOptions(config=config, max_failures=setting.max_failures)
    reached = fit_workers(
        options, setting.scaling, setting.data, trial.folder, "", setting.stop_flag, SECONDS
    )
    if reached is None:
        return False
    costs = {
        "search/best_psnr": reached.best_score,
        "search/num_steps": reached.step,
        NUM_PARAMETERS: num_parameters(SDDuSR(config.model)),
    }
    RunFolder(trial.folder).add_metrics(reached.step, costs)
    return True
