"""Every knob of the method as frozen dataclasses, and the presets, which are instances of them.

A variant is config, never another class: `baseline` and `sfm` are `paper` with parts switched off.
"""

import dataclasses
import typing
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

T = TypeVar("T")

SCALE = 2
"""HR pixels per LR pixel; the network's pixel shuffles and the matching grid are built for it."""

MIN_FULL_CROP_PX = 16
"""The discriminator halves the HR crop five times."""

LR_PER_CELL = 2
"""LR pixels per cell of the matching grid (VGG halves it); boxes and offsets keep to multiples."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Feature extractors of the LR picture, its centre and Ref."""

    num_groups: int = 3
    """Residual groups of the LR encoder."""
    num_blocks: int = 8
    """Residual blocks with channel attention in each group."""
    reduction: int = 16
    """Channel attention's bottleneck: dim / reduction channels."""
    num_ref_blocks: int = 4
    """Residual blocks of the centre encoder and of the Ref encoder."""


@dataclass(frozen=True, kw_only=True)
class MatchingConfig:
    """Features and search of sparse feature matching (Eqs. 2 to 5)."""

    vgg_dims: tuple[int, int] = (64, 128)
    """Channels of VGG's first and second stage; ImageNet weights need (64, 128)."""
    vgg_weights: str = "imagenet"
    """VGG16 start: `imagenet` (by name, needs internet once), a path to a state dict of
    torchvision's vgg16, or `none` to train from scratch."""
    dim: int = 16
    """Channels of the matching features; a 3x3 patch then has 9 * dim numbers."""
    temperature: float = 1.0
    """Softmax temperature of the straight-through estimator (Eq. 3); 1 is the paper's."""


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Mask generator: which cells take part in the search."""

    enabled: bool = True
    """False is the dense matching of Table 2's baseline."""
    mask_keys: bool = True
    """Also drop smooth keys in inference (the key mask is not trained on its own)."""


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """Flow-guided deformable alignment of the Ref features to the centre."""

    spynet_weights: str = "sintel"
    """SpyNet start: `sintel` (by name, needs internet once), a path to a state dict, or `none` to
    train from scratch."""
    spynet_levels: int = 6
    """Pyramid levels of SpyNet; the published weights need 6."""
    spynet_dims: tuple[int, int, int, int] = (32, 64, 32, 16)
    """Hidden channels of each level's convolutions; the published weights need (32, 64, 32, 16)."""
    num_groups: int = 8
    """Channel groups of the deformable convolution with offsets of their own."""
    max_offset_px: float = 15.0
    """Largest offset added to the flow, in pixels of the 2x grid."""


@dataclass(frozen=True, kw_only=True)
class DictionaryConfig:
    """Token dictionary learning (Eqs. 6 to 11)."""

    enabled: bool = True
    """False leaves the dictionary feature out of the fusion (Table 2)."""
    num_tokens: int = 128
    """Entries in each token dictionary (N)."""
    attention: Literal["none", "sqrt_d", "cosine"] = "none"
    """Scaling of both cross-attentions' logits: none is the paper's."""


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """Fusion of LR, warped and dictionary features, and the decoder behind it."""

    reduction: int = 16
    """CBAM's channel bottleneck."""
    num_blocks: int = 4
    """Residual blocks of the decoder."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The whole network."""

    dim: int = 64
    """Channels of all features on the 2x grid."""
    image_skip: bool = False
    """Add the bicubic picture to the output; the last convolution then starts at zero."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    dictionary: DictionaryConfig = field(default_factory=DictionaryConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)

    def __post_init__(self) -> None:
        _require(
            self.dim % self.alignment.num_groups == 0,
            f"model.dim is {self.dim}, need a multiple of model.alignment.num_groups "
            f"({self.alignment.num_groups})",
        )
        _require(
            self.matching.temperature > 0,
            f"model.matching.temperature is {self.matching.temperature}, need a positive number",
        )
        for name, value in (
            ("dictionary.num_tokens", self.dictionary.num_tokens),
            ("alignment.spynet_levels", self.alignment.spynet_levels),
            ("encoder.num_groups", self.encoder.num_groups),
        ):
            _require(value >= 1, f"model.{name} is {value}, need 1 or more")
        _require(
            self.matching.dim >= 4 and self.matching.dim % 2 == 0,
            f"model.matching.dim is {self.matching.dim}, need an even number of 4 or more",
        )
        for name, value in (
            ("encoder.reduction", self.encoder.reduction),
            ("fusion.reduction", self.fusion.reduction),
        ):
            _require(1 <= value <= self.dim, f"model.{name} is {value}, need 1 to dim ({self.dim})")


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
    grad_clip: float = 0.0
    """Largest gradient norm; 0 leaves gradients alone."""

    def __post_init__(self) -> None:
        _require(
            0 <= self.min_lr <= self.lr,
            f"optim.lr is {self.lr} and optim.min_lr {self.min_lr}, need 0 <= min_lr <= lr",
        )
        _require(
            self.warmup_steps >= 0 and self.grad_clip >= 0,
            f"optim.warmup_steps is {self.warmup_steps} and optim.grad_clip {self.grad_clip}, "
            f"need 0 or more",
        )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the stream cuts out of a training window."""

    crop_px: int = 128
    """Side of the LR crop and of its centre stand-in, in LR pixels (a multiple of 2)."""
    shift_px: tuple[int, int] = (32, 96)
    """Least and largest distance, along y and along x, from the crop to its centre stand-in."""
    augment: bool = True
    """Flips and the four rotations."""
    mask_quantile: float = 0.5
    """A cell is labelled 1 where its detail exceeds this quantile; 0.5 is the paper's median."""
    mask_scope: Literal["crop", "image"] = "crop"
    """Where that quantile is taken: over the crop (the paper) or over the whole picture."""
    read_ahead: int = 4
    """Batches that a thread prepares ahead of the training step."""

    def __post_init__(self) -> None:
        low, high = self.shift_px
        _require(
            self.crop_px >= 8 and self.crop_px % LR_PER_CELL == 0,
            f"data.crop_px is {self.crop_px}, need an even number of 8 or more",
        )
        _require(
            0 <= low <= high and low % LR_PER_CELL == 0 and high % LR_PER_CELL == 0,
            f"data.shift_px is {self.shift_px}, need two even numbers, the smaller first",
        )
        _require(
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
    `full`; empty starts from the published weights."""
    batch_size: int = 4
    """Samples of a global batch, whatever the number of workers."""
    seed: int = 0
    """Seed of the weights, of the order of samples and of every random choice."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` takes bfloat16 autocast where the machine computes it natively."""
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
            _require(value >= 1, f"train.{name} is {value}, need 1 or more")
        _require(self.seed >= 0, f"train.seed is {self.seed}, need 0 or more")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A training run: everything that decides its result, and nothing about where it runs."""

    model: ModelConfig = field(default_factory=ModelConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        _require(
            self.losses.stage == "rec" or self.data.crop_px >= MIN_FULL_CROP_PX,
            f"data.crop_px is {self.data.crop_px}, the discriminator of losses.stage full needs "
            f"{MIN_FULL_CROP_PX} or more",
        )


PAPER = Config()

BASELINE = replace(
    PAPER,
    model=replace(
        PAPER.model, mask=MaskConfig(enabled=False), dictionary=DictionaryConfig(enabled=False)
    ),
)

SFM = replace(PAPER, model=replace(PAPER.model, dictionary=DictionaryConfig(enabled=False)))

DEMO = Config(
    model=ModelConfig(
        dim=16,
        image_skip=True,
        encoder=EncoderConfig(num_groups=1, num_blocks=4, reduction=4, num_ref_blocks=2),
        matching=MatchingConfig(vgg_dims=(16, 32), vgg_weights="none"),
        alignment=AlignmentConfig(
            spynet_weights="none", spynet_levels=3, spynet_dims=(16, 16, 16, 16), num_groups=4
        ),
        dictionary=DictionaryConfig(num_tokens=32),
        fusion=FusionConfig(reduction=4, num_blocks=2),
    ),
    optim=OptimConfig(lr=2e-3, min_lr=1e-5, warmup_steps=20),
    data=DataConfig(crop_px=32, shift_px=(8, 32)),
    train=TrainConfig(
        num_steps=300, batch_size=8, log_every=20, validate_every=150, checkpoint_every=100
    ),
)

PRESETS: dict[str, tuple[str, Config]] = {
    "demo": ("A narrow network for a processor; needs no downloaded weights.", DEMO),
    "paper": ("SDDuSR as published: sparse matching and token dictionaries.", PAPER),
    "baseline": ("Dense matching, no dictionary (Table 2, first row).", BASELINE),
    "sfm": ("The baseline with sparse feature matching (Table 2, second row).", SFM),
}
"""Name -> (what it is, config)."""


def to_dict(config: Any) -> dict[str, Any]:
    """A config as nested dicts of JSON values."""
    return dataclasses.asdict(config)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"dim": 64}} as {"model.dim": 64}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def from_dict(kind: type[T], tree: dict[str, Any], path: str = "") -> T:
    """Rebuild a config from `to_dict`'s output, after a trip through JSON.

    Raises:
        ValueError: a field that this version does not know.
    """
    hints = typing.get_type_hints(kind)
    if unknown := tree.keys() - hints.keys():
        raise ValueError(
            f"config{path and ' of ' + path} has unknown fields {sorted(unknown)}; "
            f"{kind.__name__} knows {sorted(hints)}"
        )
    values = {}
    for name, value in tree.items():
        if dataclasses.is_dataclass(hints[name]):
            value = from_dict(typing.cast(type, hints[name]), value, f"{path}.{name}".lstrip("."))
        elif typing.get_origin(hints[name]) is tuple:
            value = tuple(value)
        values[name] = value
    return kind(**values)
