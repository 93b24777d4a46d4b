"""The training loop: one process or a rank of many, hosted by Ray Train, Ray Tune or a test."""

import logging
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from sddusr.checkpoint import Checkpoint, CheckpointStore, snapshot
from sddusr.checkpoint_checks import Progress
from sddusr.config import Config
from sddusr.data.dataset import ShardSet
from sddusr.data.stream import BatchStream
from sddusr.model.precision import Precision, warn_if_emulated
from sddusr.model.tuning import tuning
from sddusr.training import distributed
from sddusr.training.feed import device_batches
from sddusr.training.learner import Learner, NonFiniteError
from sddusr.training.profiler import StepProfiler
from sddusr.training.resume import check_same_run, load_start
from sddusr.training.signals import PollRequest, StopRequest, go_on
from sddusr.training.stall import stall_watch
from sddusr.training.throughput import ThroughputMeter, duration
from sddusr.training.validation import NUM_SHOWN, validate
from sddusr.training.writer import Background

__all__ = ["NonFiniteError", "Progress", "Reporter", "check_same_run", "load_start", "train"]

log = logging.getLogger(__name__)

SCORE = "val/full_psnr"
"""What the best checkpoint is best in. Without a split `val` none is best: choosing one on the
test pictures would flatter their scores."""


@runtime_checkable
class Reporter(Protocol):
    """Where a run tells how it goes."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """A row of metrics; called on rank 0."""
        ...

    def measure(self, metrics: Mapping[str, float]) -> None:
        """How fast this rank goes, and its losses; called on every rank, before `log`."""
        ...

    def show(self, step: int, pictures: Mapping[str, Any]) -> None:
        """Pictures (uint8 RGB) of a validation; called on rank 0."""
        ...

    def keep_file(self, path: str) -> None:
        """Keep a copy of a file, such as a profile's trace; called on rank 0."""
        ...

    def milestone(self, step: int, metrics: Mapping[str, float]) -> None:
        """A checkpoint is on its way; called on every rank, equally often."""
        ...


def train(
    config: Config,
    shards: ShardSet,
    store: CheckpointStore,
    reporter: Reporter,
    device: torch.device,
    tracking_run: str = "",
    poll_request: PollRequest = go_on,
) -> Progress:
    """Train to the config's last step, from the newest good checkpoint if there is one.

    Checkpoints are written beside the steps, one at a time; all are written when this returns.

    Args:
        poll_request: called after every step; a rank that wants to stop stops all of them, after a
            checkpoint, and the progress then falls short of the last step.

    Raises:
        ValueError: the checkpoints are of another config or other data.
        NonFiniteError: a loss or gradient is NaN or infinite.
        FileNotFoundError: weights that the config names are missing.
        OSError: a checkpoint cannot be written.
    """
    learner = Learner(config, device)
    progress = _start(learner, store, shards.content_hash, tracking_run)
    if distributed.rank() == 0:
        warn_if_emulated(learner.precision, device, "--train.precision float32 to a new run")
    profiled = config.train.profile_steps if distributed.rank() == 0 else 0
    with (
        _stream(shards, config, progress.step, device) as stream,
        Background() as background,
        StepProfiler(profiled, device, reporter.keep_file) as profiler,
        stall_watch() as watch,
    ):
        run = _Run(learner, shards, store, reporter, progress, background)
        run.show_start()
        ask_all = distributed.DelayedMax(device)
        batches = islice(stream, config.train.num_steps - progress.step)
        for batch in device_batches(batches, device, config.model.mask.enabled):
            if watch is not None:
                watch.note(progress.step, "step")
            run.account(learner.step(batch, progress.step), stream.wait_s)
            profiler.step()
            request = ask_all(poll_request())
            if watch is not None:
                watch.note(progress.step, "validation or data")
            run.milestones(stream.wait_s, save=request >= StopRequest.SAVE)
            if request == StopRequest.STOP:
                log.info("asked to stop after step %d", progress.step)
                break
    distributed.all_reduce_max(0, device)  # none leaves before the first has written all
    return progress


def _stream(shards: ShardSet, config: Config, step: int, device: torch.device) -> BatchStream:
    """This rank's shares of the global batches from `step` on."""
    return BatchStream(
        shards,
        config.data,
        split="train",
        seed=config.train.seed,
        batch_size=config.train.batch_size,
        rank=distributed.rank(),
        world=distributed.world_size(),
        start_step=step,
        as_bytes=device.type != "cpu",
        num_threads=tuning(device).read_threads,
    )


def _start(learner: Learner, store: CheckpointStore, data_hash: str, run: str) -> Progress:
    """Load the newest good checkpoint, or what a new run starts from."""
    checkpoint = store.newest_good()
    if checkpoint is None:
        load_start(learner.model, learner.config)
        learner.start_average()
        return Progress(data_hash=data_hash, tracking_run=run, precision=learner.precision)
    progress = Progress(**checkpoint.progress)
    check_same_run(checkpoint, learner.config, data_hash)
    _restore(learner, checkpoint)
    _keep_precision(learner, progress)
    log.info("resuming from %s at step %d", checkpoint.place, progress.step)
    return progress


def _keep_precision(learner: Learner, progress: Progress) -> None:
    """Compute as the run did before, also where `auto` would choose otherwise on this device."""
    if progress.precision and progress.precision != learner.precision:
        log.warning(
            "the run computed in %s before, not in %s, and goes on so",
            *(progress.precision, learner.precision),
        )
        learner.precision = cast(Precision, progress.precision)
    progress.precision = learner.precision


def _restore(learner: Learner, checkpoint: Checkpoint) -> None:
    """Go on where a checkpoint stood.

    Raises:
        ValueError: its optimizer states are not those of this network.
    """
    try:
        learner.restore(checkpoint)
        for weight, state in learner.optimizer.state.items():
            sizes = {x.shape for x in state.values() if isinstance(x, Tensor) and x.dim()}
            if sizes - {weight.shape}:
                raise RuntimeError(f"a state of {sizes} for a weight of {weight.shape}")
    except (RuntimeError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{checkpoint.place}: its optimizer states do not fit ({error!s:.120}); delete it to "
            f"resume from an earlier checkpoint"
        ) from error


class _Run:
    """What happens around the steps."""

    def __init__(
        self,
        learner: Learner,
        shards: ShardSet,
        store: CheckpointStore,
        reporter: Reporter,
        progress: Progress,
        background: Background,
    ) -> None:
        self._learner, self._config = learner, learner.config
        self._shards, self._store, self._reporter = shards, store, reporter
        self._progress, self._background = progress, background
        self._meter = ThroughputMeter()
        self._started_s, self._is_first = time.perf_counter(), True

    def show_start(self) -> None:
        """What the network makes of the pictures before its first step, to compare with."""
        if self._progress.step == 0:
            learner = self._learner
            _, pictures = validate(learner.published, self._shards, learner.precision, NUM_SHOWN)
            if pictures and distributed.rank() == 0:
                self._reporter.show(0, pictures)

    def account(self, terms: dict[str, Tensor], waited_s: float) -> None:
        """Count a step that was done, and log a row where it is due."""
        config, progress = self._config, self._progress
        progress.step += 1
        self._meter.add(terms, config.train.batch_size)
        if self._is_first and distributed.rank() == 0:
            self._tell_first(terms["total"].item())
        self._is_first = False
        if self._due(config.train.log_every):
            rate = self._learner.optimizer.param_groups[0]["lr"]
            row = self._meter.read(waited_s)
            self._reporter.measure(row)
            row |= {"train/learning_rate": rate, "train/workers": distributed.world_size()}
            if distributed.rank() == 0:
                self._reporter.log(progress.step, row)

    def _tell_first(self, loss: float) -> None:
        """A sign of life before the first row is due."""
        log.info(
            "step %d/%d: loss %.4g, the first step of this start, after %s",
            self._progress.step,
            self._config.train.num_steps,
            loss,
            duration(time.perf_counter() - self._started_s),
        )

    def milestones(self, waited_s: float, save: bool) -> None:
        """Validate and save where it is due or asked for; a new best is always saved."""
        self._background.check()
        scores = self._validate() if self._due(self._config.train.validate_every) else {}
        is_best = scores.get(SCORE, -float("inf")) > self._progress.best_score
        if is_best:
            self._progress.best_step = self._progress.step
            self._progress.best_score = scores[SCORE]
        if is_best or save or self._due(self._config.train.checkpoint_every):
            if distributed.rank() == 0:
                self._save()
            self._reporter.milestone(self._progress.step, scores)
        elif not scores:
            return
        self._meter.restart(waited_s)

    def _due(self, every: int) -> bool:
        step = self._progress.step
        return step % every == 0 or step == self._config.train.num_steps

    def _validate(self) -> dict[str, float]:
        learner, step = self._learner, self._progress.step
        scores, pictures = validate(learner.published, self._shards, learner.precision)
        if scores and distributed.rank() == 0:
            self._reporter.log(step, scores)
            self._reporter.show(step, pictures)
        return scores

    def _save(self) -> None:
        """Copy the state now, write it beside the next steps."""
        state = {
            "progress": self._progress.to_json(),
            "model_state": snapshot(dict(self._learner.published.state_dict())),
            "train_state": snapshot(self._learner.train_state()),
        }
        self._background.start(lambda: self._store.write(config=self._config, **state))
