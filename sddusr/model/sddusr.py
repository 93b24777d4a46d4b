"""The network (Figure 2)."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sddusr.config import LR_PER_CELL, SCALE, ModelConfig
from sddusr.imaging.resize import bicubic_up
from sddusr.model.alignment import Alignment
from sddusr.model.blocks import conv3x3, pass_through
from sddusr.model.dictionary import TokenDictionary
from sddusr.model.encoder import LrEncoder, center_encoder, ref_encoder
from sddusr.model.fusion import Fusion, picture_head
from sddusr.model.matching.matcher import SparseMatching
from sddusr.model.matching.transfer import CELL
from sddusr.types import Output


class SDDuSR(nn.Module):
    """A wide picture twice as large, with the help of a tele picture of its centre."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.dim
        self.dim, self.image_skip = dim, config.image_skip
        self.lr_encoder = LrEncoder(dim, config.encoder)
        self.center_encoder = center_encoder(dim, config.encoder)
        self.ref_encoder = ref_encoder(dim, config.encoder)
        self.alignment = Alignment(dim, config.alignment)
        self.matching = SparseMatching(config.matching, config.mask)
        self.dictionary = (
            TokenDictionary(dim, config.dictionary) if config.dictionary.enabled else None
        )
        self.confidence_conv = pass_through(conv3x3(1, dim))
        self.fusion = Fusion(dim, 3 if config.dictionary.enabled else 2, config.fusion)
        self.head = picture_head(dim, starts_at_zero=config.image_skip)

    def forward(
        self,
        lr: Float[Tensor, "b 3 h w"],
        lr_center: Float[Tensor, "b 3 hc wc"],
        ref: Float[Tensor, "b 3 hr wr"],
        seeds: Int[Tensor, "b"] | None = None,
    ) -> Output:
        """Pictures are RGB in 0..1 with even sides.

        Args:
            lr: the wide picture.
            lr_center: the part of it that the tele picture shows, cut at an even offset.
            ref: the tele picture, twice as high and wide as `lr_center`.
            seeds: in training, one for each sample: its mask's noise. None draws them.

        Raises:
            ValueError: sides that are odd or do not belong together.
        """
        _check_sizes(lr, lr_center, ref)
        lr_feat = self.lr_encoder(lr)
        center_feat, ref_feat = self.center_encoder(lr_center), self.ref_encoder(ref)
        aligned_feat = self.alignment(lr_center, ref, center_feat, ref_feat)
        found = self.matching(lr, lr_center, aligned_feat, seeds)
        dict_feat = None
        if self.dictionary is not None:
            dict_feat = self.dictionary(lr_feat, center_feat, aligned_feat)
        sources = self.sources(found.confidence, found.warped_feat, dict_feat)
        sr = self.picture(lr, self.fusion(lr_feat, *sources))
        return Output(
            sr, found.confidence, found.query_mask, found.key_mask, found.warped_feat, dict_feat
        )

    def sources(
        self,
        confidence: Float[Tensor, "b 1 hq wq"],
        warped_feat: Float[Tensor, "b c h w"],
        dict_feat: Float[Tensor, "b c h w"] | None,
    ) -> list[Tensor]:
        """What is fused with the LR feature: h(C) · F^Warp and, where it is learned, F^Dict."""
        warped_feat = self.confidence_weight(confidence) * warped_feat
        return [warped_feat] if dict_feat is None else [warped_feat, dict_feat]

    def picture(
        self, lr: Float[Tensor, "b 3 h w"], fused: Float[Tensor, "b c 2*h 2*w"]
    ) -> Float[Tensor, "b 3 2*h 2*w"]:
        """F^SR to RGB."""
        sr = self.head(fused).float()
        return sr + bicubic_up(lr) if self.image_skip else sr

    def confidence_weight(
        self, confidence: Float[Tensor, "b 1 hq wq"]
    ) -> Float[Tensor, "b c 4*hq 4*wq"]:
        """h(C) of Eq. 1, on the 2x grid."""
        return self.confidence_conv(F.interpolate(confidence, scale_factor=CELL, mode="nearest"))

    def load_published_weights(self, config: ModelConfig) -> None:
        """Start VGG16 and SpyNet from the weights that the config names.

        Raises:
            FileNotFoundError, ValueError: they are missing or do not fit.
        """
        if config.matching.vgg_weights != "none":
            self.matching.features.load_vgg(config.matching.vgg_weights)
        if config.alignment.spynet_weights != "none":
            self.alignment.spynet.load(config.alignment.spynet_weights)


def _check_sizes(lr: Tensor, lr_center: Tensor, ref: Tensor) -> None:
    for name, picture, unit in (("lr", lr, LR_PER_CELL), ("lr_center", lr_center, LR_PER_CELL)):
        if picture.shape[2] % unit or picture.shape[3] % unit:
            raise ValueError(
                f"{name} is {picture.shape[2]}x{picture.shape[3]}, need even sides; pad it to even"
            )
    want = tuple(SCALE * side for side in lr_center.shape[2:])
    if tuple(ref.shape[2:]) != want:
        raise ValueError(
            f"ref is {ref.shape[2]}x{ref.shape[3]}, need {want[0]}x{want[1]}, twice lr_center"
        )


def num_parameters(model: nn.Module) -> int:
    """Numbers that are learned."""
    return sum(parameter.numel() for parameter in model.parameters())
