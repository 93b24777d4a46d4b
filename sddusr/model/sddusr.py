"""The network (Figure 2)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sddusr.config import LR_PER_CELL, SCALE, ModelConfig
from sddusr.imaging.resize import bicubic_up
from sddusr.model.alignment import Alignment
from sddusr.model.blocks import conv3x3, pass_through
from sddusr.model.detail import enlarge_center, lay_in_place, to_pixels, twin_cells
from sddusr.model.encoder import LrEncoder, center_encoder, ref_encoder
from sddusr.model.evidence import (
    block_maps,
    measure_evidence,
    pool_blocks,
    split_bands,
    statistics,
)
from sddusr.model.filters import high_pass, luma
from sddusr.model.fusion import Fusion, picture_head
from sddusr.model.matching.matcher import SparseMatching, Transfer
from sddusr.model.matching.transfer import CELL, transfer_patches
from sddusr.model.normed_dictionary import make_dictionary
from sddusr.model.trust import Trust, confidence_of_pixels
from sddusr.types import DetailOutput, Output


class CarriedDetail(NamedTuple):
    """What the detail skip knows in Ref's own frame."""

    feature_share: Float[Tensor, "b 1 h w"]
    """How far Ref's feature is used, 0 to 1."""
    maps: Float[Tensor, "b 5 h w"]
    """Detail (3), the centre's look (1) and the logit of the detail's trust (1)."""
    look: Float[Tensor, "b 1 2*h 2*w"]
    """The picture's own look, in the picture's frame."""
    twins: tuple[Int[Tensor, "b q"], Bool[Tensor, "b 1 hq wq"]]
    """See `twin_cells`."""


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
            make_dictionary(dim, config.dictionary) if config.dictionary.enabled else None
        )
        self.confidence_conv = pass_through(conv3x3(1, dim))
        self.num_sources = 2 if config.dictionary.enabled else 1
        """Features that are fused with LR's: warped, and the dictionary's."""
        self.fusion = Fusion(dim, 1 + self.num_sources, config.fusion)
        self.head = picture_head(dim, starts_at_zero=config.image_skip)
        self.detail_window_px = config.detail.window_px
        self.trust = Trust(dim, config.detail) if config.detail.enabled else None

    def forward(
        self,
        lr: Float[Tensor, "b 3 h w"],
        lr_center: Float[Tensor, "b 3 hc wc"],
        ref: Float[Tensor, "b 3 hr wr"],
        seeds: Int[Tensor, "b"] | None = None,
        center_offset: Int[Tensor, "b 2"] | None = None,
        has_ref: Bool[Tensor, "b"] | None = None,
        gumbel: Float[Tensor, "b 2 hq wq"] | None = None,
    ) -> Output:
        """Pictures are RGB in 0..1 with even sides.

        Args:
            lr: the wide picture.
            lr_center: the part of it that the tele picture shows, cut at an even offset.
            ref: the tele picture, twice as high and wide as `lr_center`.
            seeds: in training, one for each sample: its mask's noise. None draws them.
            center_offset: (y, x) of the centre on the result's grid; the detail skip needs it.
            has_ref: False leaves Ref out for a sample: no warped feature, no tokens, no detail.
            gumbel: in training, the mask's noise where it was drawn before, in place of `seeds`.

        Raises:
            ValueError: sides that are odd or do not belong together, or no offset.
        """
        _check_sizes(lr, lr_center, ref)
        encoded = self.lr_encoder.encode(lr)
        lr_feat = self.lr_encoder.up(encoded)
        center_feat, ref_feat = self.center_encoder(lr_center), self.ref_encoder(ref)
        aligned_feat = self.alignment(lr_center, ref, center_feat, ref_feat)
        enlarged = bicubic_up(lr.float())
        carried = None
        if self.trust is not None:
            if center_offset is None:
                raise ValueError("model.detail needs center_offset: where the centre lies in lr")
            carried = self._evidence(
                enlarged, lr_center, ref, center_offset, center_feat, aligned_feat
            )
            aligned_feat = carried.feature_share.to(aligned_feat.dtype) * aligned_feat
        found = self.matching(lr, lr_center, aligned_feat, seeds, gumbel)
        dict_feat = None
        if self.dictionary is not None:
            dict_feat = self.dictionary(lr_feat, center_feat, aligned_feat)
        detail = None
        if carried is not None:
            detail = self._detail(encoded, found, carried)
            found = self._in_place(found, aligned_feat, carried)
        if has_ref is not None:
            found, dict_feat, detail = _without_ref(has_ref, found, dict_feat, detail)
        sources = self.sources(found.confidence, found.warped_feat, dict_feat)
        residual = self.head(self.fusion(lr_feat, *sources)).float()
        return Output(
            self.picture(residual, enlarged, detail),
            found.confidence,
            found.query_mask,
            found.key_mask,
            found.warped_feat,
            dict_feat,
            detail,
        )

    def _evidence(
        self,
        enlarged: Tensor,
        lr_center: Tensor,
        ref: Tensor,
        center_offset: Tensor,
        center_feat: Tensor,
        aligned_feat: Tensor,
    ) -> CarriedDetail:
        """Ref's detail in its own frame, and what the trust makes of it there."""
        assert self.trust is not None
        window_px = self.detail_window_px
        with torch.no_grad():
            center = enlarge_center(enlarged, lr_center.float(), center_offset)
            bands = split_bands(ref.float(), center, window_px)
            found = measure_evidence(bands, window_px)
            of_whole = statistics(pool_blocks(block_maps(bands)))
            penalty = self.trust.penalty(found.evidence, of_whole)
            look = self.look(enlarged)
        share, logit = self.trust.in_ref(
            found.evidence, penalty, of_whole, center_feat, aligned_feat
        )
        maps = torch.cat([found.detail, found.look, logit], dim=1)
        shapes = _cells(enlarged, SCALE * LR_PER_CELL), _cells(lr_center, LR_PER_CELL)
        return CarriedDetail(share, maps, look, twin_cells(center_offset, *shapes))

    def _detail(self, encoded: Tensor, found: Transfer, carried: CarriedDetail) -> DetailOutput:
        """Ref's detail in the picture's frame: at its own place, or moved by the matches."""
        assert self.trust is not None
        with torch.no_grad():
            moved = transfer_patches(carried.maps, found.key_index, found.weight.float())
        maps = lay_in_place(moved, carried.maps, *carried.twins)
        inside = to_pixels(carried.twins[1])
        confidence = confidence_of_pixels(found.confidence.detach().float(), carried.twins[1])
        trust = self.trust.in_picture(encoded, carried.look, confidence, maps, inside)
        return DetailOutput(trust, maps[:, :3], inside)

    def _in_place(self, found: Transfer, aligned_feat: Tensor, carried: CarriedDetail) -> Transfer:
        """F^Warp weighted by trust; inside the box Ref's feature at its own place."""
        confidence = torch.where(carried.twins[1], 1.0, found.confidence)
        warped_feat = self.trusted_match(found.confidence, found.warped_feat)
        warped_feat = lay_in_place(warped_feat, aligned_feat, *carried.twins)
        return found._replace(confidence=confidence, warped_feat=warped_feat)

    def look(self, enlarged: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
        """High-pass of the enlarged picture's luma, which a match's own look is compared with."""
        return high_pass(luma(enlarged), self.detail_window_px)

    def trusted_match(
        self,
        confidence: Float[Tensor, "b 1 hq wq"],
        warped_feat: Float[Tensor, "b c 4*hq 4*wq"],
    ) -> Float[Tensor, "b c 4*hq 4*wq"]:
        """F^Warp outside the box, as far as the detail skip trusts the matches that moved it."""
        if self.trust is None:
            return warped_feat
        share = self.trust.of_match(confidence).to(warped_feat.dtype)
        return to_pixels(share) * warped_feat

    def sources(
        self,
        confidence: Float[Tensor, "b 1 hq wq"],
        warped_feat: Float[Tensor, "b c h w"],
        dict_feat: Float[Tensor, "b c h w"] | None,
    ) -> list[Tensor]:
        """What is fused with the LR feature: h(C) · F^Warp and, where it is learned, F^Dict."""
        # In this order the product is laid out as the feature is, four times faster on a CPU.
        warped_feat = warped_feat * self.confidence_weight(confidence)
        return [warped_feat] if dict_feat is None else [warped_feat, dict_feat]

    def picture(
        self,
        residual: Float[Tensor, "b 3 h w"],
        enlarged: Float[Tensor, "b 3 h w"],
        detail: DetailOutput | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """RGB of what the head makes of F^SR.

        Args:
            enlarged: LR, bicubic; not used without `image_skip`.
            detail: what the detail skip adds.
        """
        if detail is not None and self.trust is not None:
            share = self.trust.of_residual(detail)
            residual = residual if share is None else share * residual
        sr = enlarged + residual if self.image_skip else residual
        return sr if detail is None else sr + detail.trust * detail.detail

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


def _without_ref(
    has_ref: Bool[Tensor, "b"],
    found: Transfer,
    dict_feat: Tensor | None,
    detail: DetailOutput | None,
) -> tuple[Transfer, Tensor | None, DetailOutput | None]:
    """The same with nothing of Ref in the samples that have none."""
    share = has_ref.to(found.confidence.dtype).view(-1, 1, 1, 1)
    found = found._replace(
        confidence=share * found.confidence, warped_feat=share * found.warped_feat
    )
    if dict_feat is not None:
        dict_feat = share.to(dict_feat.dtype) * dict_feat
    if detail is not None:
        detail = detail._replace(trust=share * detail.trust)
    return found, dict_feat, detail


def _cells(picture: Tensor, px_per_cell: int = 1) -> tuple[int, int]:
    return picture.shape[2] // px_per_cell, picture.shape[3] // px_per_cell


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
