"""The knobs of a training run around the network."""

from dataclasses import dataclass, field
from typing import Literal

from sddusr.config.checks import require
from sddusr.config.model import ModelConfig

MIN_FULL_CROP_PX = 16
"""The discriminator halves the HR crop five times."""

LR_PER_CELL = 2
"""LR pixels per cell of the matching grid (VGG halves it); boxes and offsets keep to multiples."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Eq. 12."""

    stage: Literal["rec", "full"] = "rec"
    """`rec`: reconstruction and mask loss (the paper's suffix -rec); `full`: all four."""
    mask_weight: float = 1e-3
    """λ1."""
    perceptual_weight: float = 1e-3
    """λ2, used in stage `full`."""
    adversarial_weight: float = 1e-4
    """λ3, used in stage `full`."""
    trust_weight: float = 0.0
    """Weight of the trust's own term, where the network has a detail skip: how many more nepers of
    square error the detail leaves than the best share of it would, inside and outside the box."""
    charbonnier_eps: float = 1e-3
    """ε of sqrt(d² + ε²)."""
    vgg_weights: str = "imagenet"
    """VGG19 of the perceptual loss: `imagenet` (by name, needs internet once) or a path to a state
    dict of torchvision's vgg19."""
    discriminator_dim: int = 64
    """Channels of the discriminator's first stage."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam with a cosine schedule."""

    lr: float = 1e-4
    """Highest learning rate."""
    min_lr: float = 1e-6
    """Learning rate at the last step."""
    warmup_steps: int = 0
    """Steps of linear warm-up before the cosine."""
    flow_lr_scale: float = 1.0
    """SpyNet's share of the learning rate. Adam makes full steps of noisy gradients, so a flow from
    scratch drifts off the picture, where no gradient brings it back; 0.01 keeps it near."""
    offset_lr_scale: float = 1.0
    """The deformable offsets' share; they drift as the flow does, 0.1 keeps them near."""
    align_from_step: int = 0
    """Step from which flow and offsets learn at all. Until then the aligned feature is Ref's own,
    where it lies; a network from scratch learns what Ref is good for before it can push it away."""
    max_grad_norm: float = 0.0
    """Longer gradients are scaled down to this norm; 0 leaves them alone. The norm before is
    logged as `train/gradient_norm`."""

    def __post_init__(self) -> None:
        require(
            0 <= self.min_lr <= self.lr,
            f"optim.lr is {self.lr} and optim.min_lr {self.min_lr}, need 0 <= min_lr <= lr",
        )
        for name in (
            "warmup_steps",
            "flow_lr_scale",
            "offset_lr_scale",
            "align_from_step",
            "max_grad_norm",
        ):
            value = getattr(self, name)
            require(value >= 0, f"optim.{name} is {value}, need 0 or more")


@dataclass(frozen=True, kw_only=True)
class RefsConfig:
    """Refs as they come: shares of the training samples whose tele picture suffers something.

    What a sample suffers is a function of (seed, step, position), as its crop is; it suffers one
    thing at most.
    """

    defocus_share: float = 0.0
    """Out of focus: a Gaussian or a disk."""
    defocus_px: tuple[float, float] = (0.8, 5.0)
    """Sigma of the blur, HR pixels."""
    noise_share: float = 0.0
    """A dark scene."""
    noise_sigma: tuple[float, float] = (2.0, 30.0)
    """Of Gaussian noise, of 255."""
    occluder_share: float = 0.0
    """Something that the wide picture does not show: an object, a stamp, a bar, or a part that was
    filled with the wide picture because the tele picture had nothing to show there."""
    occluder_side: tuple[float, float] = (0.12, 0.55)
    """Its sides, of the crop's."""
    exposure_share: float = 0.0
    """Underexposed, and brought back by the colour fit."""
    exposure_gain: tuple[float, float] = (0.1, 0.9)
    """Share of the light."""
    color_share: float = 0.0
    """Colours that the fit left over."""
    color_error: float = 0.08
    """Largest relative error of a channel's gain."""
    jpeg_share: float = 0.0
    """Compressed."""
    jpeg_quality: tuple[int, int] = (8, 70)
    zoom_share: float = 0.0
    """Digital zoom: no more than the wide picture shows."""
    shift_share: float = 0.0
    """Misplaced, as registration may leave it."""
    shift_px: tuple[float, float] = (0.3, 4.0)
    """Length of the step, HR pixels."""
    absent_share: float = 0.0
    """No tele picture at all: trains the network without Ref."""

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in vars(self) if name.endswith("_share")}
        for name, share in shares.items():
            require(0 <= share <= 1, f"data.refs.{name} is {share}, need 0 to 1")
        total = sum(shares.values())
        require(total <= 1 + 1e-9, f"data.refs: shares add up to {total:g}, need at most 1")
        for name, value in vars(self).items():
            if isinstance(value, tuple):
                low, high = value
                require(0 <= low <= high, f"data.refs.{name} is {value}, need the smaller first")

    @property
    def has_any(self) -> bool:
        """Whether any sample is changed."""
        return any(getattr(self, name) > 0 for name in vars(self) if name.endswith("_share"))


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the stream cuts out of a training window."""

    crop_px: int = 128
    """Side of the LR crop and of its centre crop (the part of the centre that Ref covers), in LR
    pixels (a multiple of 2)."""
    shift_px: tuple[int, int] = (32, 96)
    """Least and largest distance, along y and along x, from the crop to its centre crop."""
    far_share: float = 0.0
    """Share of the samples with a centre crop as far from the crop as the window has room for:
    what a network with a detail skip learns from that a match outside the box may be wrong."""
    augment: bool = True
    """Flips and the four rotations."""
    color_augment: float = 0.0
    """Share of the samples whose colours are changed, all pictures alike: permuted channels, gains
    of 0.8 to 1.25, more or less saturation."""
    refs: RefsConfig = field(default_factory=RefsConfig)
    register_ref: Literal["auto", "homography", "none"] = "none"
    """How Ref was registered to the centre when the shards were made; other shards are refused, so
    that a network meets in use what it was trained on."""
    mask_quantile: float = 0.5
    """A cell is labelled 1 where its detail exceeds this quantile; 0.5 is the paper's median."""
    mask_scope: Literal["crop", "image"] = "crop"
    """Where that quantile is taken: over the crop (the paper) or over the whole picture."""
    read_ahead: int = 4
    """Batches that are prepared ahead of the training step, by one thread for a processor and by
    several for a GPU."""

    def __post_init__(self) -> None:
        low, high = self.shift_px
        require(
            self.crop_px >= 8 and self.crop_px % LR_PER_CELL == 0,
            f"data.crop_px is {self.crop_px}, need an even number of 8 or more",
        )
        require(
            0 <= low <= high and low % LR_PER_CELL == 0 and high % LR_PER_CELL == 0,
            f"data.shift_px is {self.shift_px}, need two even numbers, the smaller first",
        )
        for name in ("far_share", "color_augment"):
            share = getattr(self, name)
            require(0 <= share <= 1, f"data.{name} is {share}, need 0 to 1")
        require(
            0 < self.mask_quantile < 1,
            f"data.mask_quantile is {self.mask_quantile}, need a number between 0 and 1",
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length and cadence of a run."""

    num_steps: int = 250_000
    """Optimizer steps."""
    init_from: str = ""
    """Checkpoint or run whose network a new run starts from, such as a `-rec` run for the stage
    `full`, or `compact`, the network that ships; empty starts from the published weights."""
    init_missing: Literal["refuse", "fresh"] = "refuse"
    """What `init_from` does about parts that its network lacks or that have another shape: refuse
    them, or let them start fresh (a network that gets a detail skip or another dictionary)."""
    batch_size: int = 4
    """Samples of a global batch, whatever the number of workers."""
    accumulate: int = 0
    """Micro-batches that a worker's share of a batch is cut into: less memory, the same gradient.
    At most one for each sample of the share. 0 takes one on a GPU, and on a processor as many as
    make it fastest."""
    ema_decay: float = 0.0
    """Share of the averaged weights that stays at each step, such as 0.999; they are what is
    validated and published. 0 keeps no average."""
    seed: int = 0
    """Seed of the weights, of the order of samples and of every random choice."""
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    """`auto` takes bfloat16 autocast where all workers' devices compute it natively, and keeps to
    its choice when the run is resumed; `float32` is IEEE's, `tf32` is faster on a GPU."""
    deterministic: bool = False
    """On a GPU, add up gradients in a fixed order, so that a resumed run equals one that was never
    interrupted to the last bit, as on a CPU; slower."""
    compile: bool = False
    """Compile the training step's network with torch.compile: the first steps take minutes, the
    others are faster on a GPU; results differ by rounding."""
    cuda_graph: bool = False
    """On a GPU, record the forward and backward passes of a step and start them by one launch from
    then on; faster where starting kernels takes longer than they do."""
    profile_steps: int = 0
    """Steps, after a few to warm up, that torch's profiler watches: a table in the log, and a
    trace for chrome://tracing or ui.perfetto.dev; 0 watches none."""
    log_every: int = 100
    """Steps between two rows of training metrics."""
    validate_every: int = 5_000
    """Steps between two validations on held-out pictures; the last step is always validated."""
    checkpoint_every: int = 1_000
    """Steps between two checkpoints; the last step is always saved."""
    keep_checkpoints: int = 3
    """Newest checkpoints kept; the best one is kept beside them."""

    def __post_init__(self) -> None:
        for name in (
            "num_steps",
            "batch_size",
            "log_every",
            "validate_every",
            "checkpoint_every",
            "keep_checkpoints",
        ):
            value = getattr(self, name)
            require(value >= 1, f"train.{name} is {value}, need 1 or more")
        for name in ("seed", "profile_steps", "accumulate"):
            value = getattr(self, name)
            require(value >= 0, f"train.{name} is {value}, need 0 or more")
        require(
            0 <= self.ema_decay < 1,
            f"train.ema_decay is {self.ema_decay}, need 0 or more and less than 1",
        )
        require(
            self.accumulate <= self.batch_size,
            f"train.accumulate is {self.accumulate}, need at most train.batch_size "
            f"({self.batch_size})",
        )


@dataclass(frozen=True, kw_only=True)
class Config:
    """A training run: everything that decides its result, and nothing about where it runs."""

    model: ModelConfig = field(default_factory=ModelConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        require(
            self.losses.stage == "rec" or self.data.crop_px >= MIN_FULL_CROP_PX,
            f"data.crop_px is {self.data.crop_px}, the discriminator of losses.stage full needs "
            f"{MIN_FULL_CROP_PX} or more",
        )
