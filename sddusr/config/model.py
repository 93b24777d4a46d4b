"""The network's knobs."""

from dataclasses import dataclass, field
from typing import Literal

from sddusr.config.checks import require


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
    max_flow_px: float = 64.0
    """Longer flows are cut to this along each axis, in pixels of the 2x grid. What registration
    leaves over is far shorter, so a longer flow is an error, and one that would make a tile of a
    large picture read all of it."""
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
    norm: bool = False
    """LayerNorm of features and tokens before they meet. The paper has none; there features are a
    fiftieth of a token's size, so each pixel reads nearly all tokens alike."""
    num_heads: int = 1
    """Heads of both cross-attentions; more than one needs `norm`."""
    token_scale: float = 1.0
    """Standard deviation of the Ref tokens' first values."""
    keep_logit: float = 0.0
    """Start of the keep rate's logit: 0 keeps half of a token when a picture is written into it."""
    tokens: Literal["learned", "written"] = "learned"
    """`learned`: tokens are weights, refined for each picture and never written back. `written`:
    section 3.3 taken literally: training overwrites them with what pictures made of them."""
    write_rate: float = 0.01
    """How far written tokens move, at each step, to the batch's mean of the refined ones."""
    constant: bool = False
    """One learned vector in the dictionary feature's place: the control of equal width."""


@dataclass(frozen=True, kw_only=True)
class DetailConfig:
    """Detail skip: Ref's own detail, laid on the bicubic picture where it can be trusted."""

    enabled: bool = False
    """Inside the centre box Ref's detail and feature lie at their own place; outside they travel
    through the matches. SR = bicubic + trust · detail + the network's residual."""
    replaced_residual: float = 0.0
    """Share of the residual that is left out inside the box where detail is fully trusted, as both
    say what the bicubic picture lacks. Learned from this start, between 0 and 1; at 0 nothing is
    ever left out."""
    trust: bool = True
    """Learn from measured evidence where detail is trusted; False trusts a match by its confidence
    alone."""
    window_px: int = 17
    """Side (HR px, odd) of the mean that is taken off Ref − bicubic; what is left is detail."""
    trust_dim: int = 16
    """Channels of the trust's convolutions."""
    support_px: int = 25
    """Side (HR px, odd) of the surroundings that must be trusted, too, inside the box; 0: none."""
    doubt_limit: float = 3.0
    """Nothing is taken from where Ref contradicts the wide picture this many times more, measured
    against the picture's own contrast, than it usually does; 0: no limit."""
    doubt_px: int = 33
    """Side (HR px, odd) of the surroundings that must be free of such contradiction, too; 0: none.
    """

    def __post_init__(self) -> None:
        require(
            self.window_px >= 3 and self.window_px % 2 == 1,
            f"model.detail.window_px is {self.window_px}, need an odd number of 3 or more",
        )
        require(self.trust_dim >= 1, f"model.detail.trust_dim is {self.trust_dim}, need 1 or more")
        for name in ("support_px", "doubt_px"):
            side = getattr(self, name)
            require(
                side == 0 or (side >= 3 and side % 2 == 1),
                f"model.detail.{name} is {side}, need 0 or an odd number of 3 or more",
            )
        require(
            0 <= self.replaced_residual < 1,
            f"model.detail.replaced_residual is {self.replaced_residual}, need 0 or more and less "
            f"than 1",
        )
        require(
            self.doubt_limit >= 0,
            f"model.detail.doubt_limit is {self.doubt_limit}, need 0 or more",
        )


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
    detail: DetailConfig = field(default_factory=DetailConfig)

    def __post_init__(self) -> None:
        require(
            self.dim % self.alignment.num_groups == 0,
            f"model.dim is {self.dim}, need a multiple of model.alignment.num_groups "
            f"({self.alignment.num_groups})",
        )
        require(
            self.image_skip or not self.detail.replaced_residual,
            "model.detail.replaced_residual needs model.image_skip, without which there is no "
            "residual; add --model.detail.replaced-residual 0",
        )
        heads = self.dictionary.num_heads
        require(
            heads >= 1 and self.dim % heads == 0 and (heads == 1 or self.dictionary.norm),
            f"model.dictionary.num_heads is {heads}, need a divisor of model.dim ({self.dim}), and "
            f"model.dictionary.norm for more than one",
        )
        for name in ("max_flow_px", "max_offset_px"):
            value = getattr(self.alignment, name)
            require(value >= 0, f"model.alignment.{name} is {value}, need 0 or more")
        require(
            0 < self.dictionary.write_rate <= 1,
            f"model.dictionary.write_rate is {self.dictionary.write_rate}, need more than 0 and "
            f"at most 1",
        )
        require(
            self.matching.temperature > 0,
            f"model.matching.temperature is {self.matching.temperature}, need a positive number",
        )
        for name, value in (
            ("dictionary.num_tokens", self.dictionary.num_tokens),
            ("alignment.spynet_levels", self.alignment.spynet_levels),
            ("encoder.num_groups", self.encoder.num_groups),
        ):
            require(value >= 1, f"model.{name} is {value}, need 1 or more")
        require(
            self.matching.dim >= 4 and self.matching.dim % 2 == 0,
            f"model.matching.dim is {self.matching.dim}, need an even number of 4 or more",
        )
        for name, value in (
            ("encoder.reduction", self.encoder.reduction),
            ("fusion.reduction", self.fusion.reduction),
        ):
            require(1 <= value <= self.dim, f"model.{name} is {value}, need 1 to dim ({self.dim})")
