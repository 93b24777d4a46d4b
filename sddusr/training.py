"""The training loop: one process or a rank of many, hosted by Ray Train, Ray Tune or a test."""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sddusr import ranks
from sddusr.checkpoint import Checkpoint, CheckpointStore, read_checkpoint
from sddusr.config import Config, ModelConfig, flatten, to_dict
from sddusr.data.shards import ShardSet
from sddusr.data.stream import Stream
from sddusr.discriminator import Adversary
from sddusr.inference import Precision
from sddusr.losses import PerceptualLoss, pixel_terms, total_loss
from sddusr.model.sddusr import SDDuSR
from sddusr.optim import learning_rate, make_optimizer, set_learning_rate
from sddusr.types import Batch
from sddusr.validation import validate

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

    def show(self, step: int, pictures: Mapping[str, Any]) -> None:
        """Pictures (uint8 RGB) of a validation; called on rank 0."""
        ...

    def milestone(self, step: int, metrics: Mapping[str, float]) -> None:
        """A checkpoint was written; called on every rank, equally often."""
        ...


@dataclass(kw_only=True)
class Progress:
    """Where a run stands; all of it is in every checkpoint."""

    step: int = 0
    """Optimizer steps done; also the next global batch's number."""
    best_step: int = 0
    best_score: float = -float("inf")
    data_hash: str
    tracking_run: str = ""


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite; the weights were not touched."""


def native_precision(config: Config, device: torch.device) -> Precision:
    """The number format of the forward pass; `auto` takes bfloat16 where it is native."""
    if config.train.precision != "auto":
        return config.train.precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if native else "float32"


class Learner:
    """The network and all that changes it.

    No generator's state is kept: the order of samples, crops, augmentation and the mask's noise
    are functions of (seed, step, position), and nothing else in a step is drawn.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        torch.manual_seed(config.train.seed)
        self.config = config
        self.device = device
        self.precision: Precision = native_precision(config, device)
        self.model = SDDuSR(config.model).to(device).to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.model.parameters(), config.optim)
        self.perceptual, self.adversary = None, None
        if config.losses.stage == "full":
            self.perceptual = PerceptualLoss(config.losses.vgg_weights).to(device)
            self.adversary = Adversary(config.losses, config.optim, device)
        self._replica: nn.Module = ranks.data_parallel(self.model)

    def step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One optimizer step on this rank's share of global batch `step`; the loss terms.

        Raises:
            NonFiniteError: before anything is changed.
        """
        self._set_rate(step)
        self._replica.train()
        batch = batch.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            output = self._replica(batch.lr, batch.lr_center, batch.ref, batch.seeds)
            terms = pixel_terms(output, batch, self.config.losses)
            if self.perceptual is not None and self.adversary is not None:
                terms["perceptual"] = self.perceptual(output.sr, batch.hr)
                terms["adversarial"] = self.adversary.judge(output.sr, batch.hr)
        terms["total"] = total_loss(terms, self.config.losses)
        self.optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()
        seen = {name: term.detach() for name, term in terms.items()}
        seen["gradient_norm"] = self._clipped_norm(self.model)
        if self.adversary is not None:
            seen["discriminator"] = self.adversary.learn(output.sr, batch.hr)
            seen["discriminator_norm"] = self._clipped_norm(self.adversary.discriminator)
        _check_finite(seen, batch.ids, step)
        self.optimizer.step()
        if self.adversary is not None:
            self.adversary.optimizer.step()
        return seen

    def _set_rate(self, step: int) -> None:
        rate = learning_rate(step, self.config.train.num_steps, self.config.optim)
        set_learning_rate(self.optimizer, rate)
        if self.adversary is not None:
            set_learning_rate(self.adversary.optimizer, rate)

    def _clipped_norm(self, network: nn.Module) -> Float[Tensor, ""]:
        """The gradients' norm before they are clipped; the same on every rank."""
        parameters = list(network.parameters())
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.config.optim.grad_clip > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.optim.grad_clip, norm)
        return norm

    def train_state(self) -> dict[str, Any]:
        """Tensors and numbers beside the network's own."""
        state = {"optimizer": self.optimizer.state_dict()}
        return state | (self.adversary.state_dict() if self.adversary else {})

    def restore(self, checkpoint: Checkpoint) -> None:
        self.model.load_state_dict(checkpoint.model_state)
        self.optimizer.load_state_dict(checkpoint.train_state["optimizer"])
        if self.adversary is not None:
            self.adversary.load_state_dict(checkpoint.train_state)


def train(
    config: Config,
    shards: ShardSet,
    store: CheckpointStore,
    reporter: Reporter,
    device: torch.device,
    tracking_run: str = "",
) -> Progress:
    """Train to the config's last step, from the newest good checkpoint if there is one.

    Raises:
        ValueError: the checkpoints are of another config or other data.
        NonFiniteError: a loss or gradient is NaN or infinite.
        FileNotFoundError: weights that the config names are missing.
    """
    learner = Learner(config, device)
    progress = _start(learner, store, shards.content_hash, tracking_run)
    meter = Meter()
    with Stream(
        shards,
        config.data,
        split="train",
        seed=config.train.seed,
        batch_size=config.train.batch_size,
        rank=ranks.rank(),
        world=ranks.world_size(),
        start_step=progress.step,
    ) as stream:
        for batch in islice(stream, config.train.num_steps - progress.step):
            terms = learner.step(batch, progress.step)
            progress.step += 1
            meter.add(terms, config.train.batch_size)
            if _due(progress.step, config.train.log_every, config):
                rate = learner.optimizer.param_groups[0]["lr"]
                row = meter.read(stream.wait_s) | {"train/learning_rate": rate}
                if ranks.rank() == 0:
                    reporter.log(progress.step, row)
            if _milestones(learner, shards, store, reporter, progress):
                meter.restart(stream.wait_s)
    return progress


def _start(learner: Learner, store: CheckpointStore, data_hash: str, run: str) -> Progress:
    """Load the newest good checkpoint, or the published weights."""
    checkpoint = store.newest_good()
    if checkpoint is None:
        load_start(learner.model, learner.config)
        return Progress(data_hash=data_hash, tracking_run=run)
    progress = Progress(**checkpoint.progress)
    check_same_run(checkpoint, learner.config, data_hash)
    learner.restore(checkpoint)
    log.info("resuming from %s at step %d", checkpoint.place, progress.step)
    return progress


def load_start(model: SDDuSR, config: Config) -> None:
    """What a new run starts from: another run's network, or the published weights.

    Raises:
        FileNotFoundError, ValueError: it is missing or does not fit.
    """
    if not config.train.init_from:
        model.load_published_weights(config.model)
        return
    earlier = read_checkpoint(config.train.init_from)
    if _without_weights(earlier.config.model) != _without_weights(config.model):
        raise ValueError(
            f"{earlier.place} holds a network of another shape than the config's; give the same "
            f"preset and --model flags, or leave --train.init-from out"
        )
    model.load_state_dict(earlier.model_state)


def _without_weights(config: ModelConfig) -> ModelConfig:
    """The network alone, wherever its first weights came from."""
    return replace(
        config,
        matching=replace(config.matching, vgg_weights="none"),
        alignment=replace(config.alignment, spynet_weights="none"),
    )


def check_same_run(checkpoint: Checkpoint, config: Config, data_hash: str) -> None:
    """A run never goes on silently with another config or other data.

    Raises:
        ValueError: what differs.
    """
    before, now = (flatten(to_dict(c)) for c in (checkpoint.config, config))
    before["data"], now["data"] = checkpoint.progress["data_hash"], data_hash
    changed = [f"{key} was {before[key]}, is {now[key]}" for key in now if before[key] != now[key]]
    if changed:
        raise ValueError(
            f"{checkpoint.place} is of another run: {'; '.join(changed[:3])}"
            f"{' and more' if len(changed) > 3 else ''}; take another --name"
        )


def _due(step: int, every: int, config: Config) -> bool:
    return step % every == 0 or step == config.train.num_steps


def _milestones(
    learner: Learner,
    shards: ShardSet,
    store: CheckpointStore,
    reporter: Reporter,
    progress: Progress,
) -> bool:
    """Validate and save where it is due; a new best is always saved. Whether anything was due."""
    config, step = learner.config, progress.step
    scores: dict[str, float] = {}
    if _due(step, config.train.validate_every, config):
        scores, pictures = validate(learner.model, shards, learner.precision)
        if scores and ranks.rank() == 0:
            reporter.log(step, scores)
            reporter.show(step, pictures)
    is_best = scores.get(SCORE, -float("inf")) > progress.best_score
    if is_best:
        progress.best_step, progress.best_score = step, scores[SCORE]
    if not is_best and not _due(step, config.train.checkpoint_every, config):
        return bool(scores)
    if ranks.rank() == 0:
        store.write(
            learner.model,
            config=config,
            progress=asdict(progress),
            train_state=learner.train_state(),
        )
    reporter.milestone(step, scores)
    return True


class Meter:
    """Means of the loss terms since the last row, and how fast the run goes."""

    def __init__(self) -> None:
        self._terms: list[dict[str, Tensor]] = []
        self._num_samples = 0
        self._since_s = time.perf_counter()
        self._waited_s = 0.0

    def add(self, terms: dict[str, Tensor], num_samples: int) -> None:
        self._terms.append(terms)
        self._num_samples += num_samples

    def read(self, waited_s: float) -> dict[str, float]:
        """The row (this rank's losses), then start anew; `waited_s` is the stream's total."""
        span_s = time.perf_counter() - self._since_s
        row = {
            f"train/{name}": torch.stack([terms[name] for terms in self._terms]).mean().item()
            for name in self._terms[0]
        }
        row["train/samples_per_s"] = self._num_samples / span_s
        row["train/data_wait_share"] = (waited_s - self._waited_s) / span_s
        self.restart(waited_s)
        return row

    def restart(self, waited_s: float) -> None:
        """Forget what came before; validation and checkpoints are no training time."""
        self._terms, self._num_samples = [], 0
        self._since_s, self._waited_s = time.perf_counter(), waited_s


def _check_finite(seen: Mapping[str, Tensor], ids: tuple[str, ...], step: int) -> None:
    """Every rank raises, or none: gradients are averaged over ranks, so their norms agree."""
    if all(torch.isfinite(value) for name, value in seen.items() if name.endswith("norm")):
        return
    told = ", ".join(f"{name} {value.item():g}" for name, value in seen.items())
    own = bool(torch.isfinite(seen["total"]))
    line = f"rank {ranks.rank()}: {told}; samples {', '.join(ids)}"
    everyone = ranks.gather((own, line))
    guilty = [line for fine, line in everyone if not fine] or [line for _, line in everyone]
    raise NonFiniteError(f"step {step}, {' | '.join(guilty)}; the weights are as before the step")
