"""What the fusion reads in a rectangle of the frame: LR's feature and what the centre adds."""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32, Int
from torch import Tensor

from sddusr.config import LR_PER_CELL, SCALE
from sddusr.geometry.box import Box
from sddusr.imaging.allocator import keeping_freed_memory
from sddusr.imaging.resize import bicubic_up
from sddusr.inference.carried import BICUBIC_REACH_PX
from sddusr.inference.precompute import FrameFeatures, Inputs
from sddusr.inference.tiles import cut, grown, lr_reach, overlap, reach, scaled, snapped, within
from sddusr.model.detail import to_pixels
from sddusr.model.evidence import MEAN_PX
from sddusr.model.filters import high_pass, luma
from sddusr.model.matching.transfer import CELL, CellBank, transfer_patches
from sddusr.model.sddusr import SDDuSR
from sddusr.model.trust import LOOK_PX
from sddusr.types import DetailOutput

BILINEAR_REACH_PX = 1
"""LR pixels that the trust's enlargement looks at."""


class Region(NamedTuple):
    """A part of LR whose feature is held while its tiles are made."""

    box: Box
    """What `lr_feat` covers, LR pixels."""
    lr_feat: Float[Tensor, "1 c _ _"]
    """On LR's grid, before it is enlarged."""


class Enlarged(NamedTuple):
    """LR's feature for a part of a region."""

    box: Box
    """What it covers, LR pixels."""
    lr_feat: Float[Tensor, "1 c _ _"]
    """On the 2x grid."""

    def part(self, window: Box) -> Float[Tensor, "1 c _ _"]:
        """A view of a rectangle of LR."""
        return cut(self.lr_feat, scaled(within(window, self.box), SCALE))


class Sources(NamedTuple):
    """What a part of the picture is made from besides LR itself, on the 2x grid, to look at."""

    warped_feat: Float32[np.ndarray, "h w"]
    """Mean over the channels of F^Warp, which holds zeros where cells did not search."""
    dict_feat: Float32[np.ndarray, "h w"] | None
    """Mean over the channels of F^Dict; None without a dictionary."""
    token_index: Int[np.ndarray, "h w"] | None
    """The token that each pixel reads most of."""


class SourceMaker:
    """Computes what is fused, for any rectangle of LR."""

    def __init__(
        self, model: SDDuSR, inputs: Inputs, known: FrameFeatures, trust: float = 1.0
    ) -> None:
        self.model, self.inputs, self.known, self.trust = model, inputs, known, trust
        self.halo = max(lr_reach(model.confidence_conv), reach(model.lr_encoder.up))
        """LR pixels that it looks around a rectangle."""
        self.trust_halo = trust_halo(model)
        """The same for the trust in a match's detail."""
        self.encoder_halo = reach(model.lr_encoder.head, model.lr_encoder.body)

    def encoded(self, core: Box, around: int) -> Region:
        """What rectangles within `core` read, if they look at most `around` LR pixels further."""
        around = max(around + self.halo, self.trust_halo)
        box = grown(core, around, self.inputs.frame, LR_PER_CELL)
        window = grown(box, self.encoder_halo, self.inputs.frame, LR_PER_CELL)
        with keeping_freed_memory():  # its maps are one size, so what one layer frees fits the next
            lr_feat = self.model.lr_encoder.encode(self.inputs.part("lr", window))
        return Region(box, cut(lr_feat, within(box, window)))

    def enlarged(self, region: Region, window: Box) -> Enlarged:
        """LR's feature for a rectangle."""
        near = self._around(window)
        inner = scaled(within(window, near), SCALE)
        lr_feat = self.model.lr_encoder.up(cut(region.lr_feat, within(near, region.box)))
        return Enlarged(window, cut(lr_feat, inner))

    def joined(self, enlarged: Enlarged, window: Box) -> Float[Tensor, "1 wide _ _"]:
        """LR's feature and the two that the centre adds, side by side."""
        near, lr_feat = self._around(window), enlarged.part(window)
        if self.known.bank is None:
            nothing = torch.zeros_like(lr_feat)
            return self.model.fusion.joined(lr_feat, *[nothing] * self.model.num_sources)
        (transferred,) = self.model.sources(*self._transferred(near), None)
        sources = [cut(transferred, scaled(within(window, near), SCALE))]
        if self.model.dictionary is not None and self.known.tokens is not None:
            sources.append(self.model.dictionary.look_up(lr_feat, *self.known.tokens))
        return self.model.fusion.joined(lr_feat, *sources)

    def trusted_detail(self, region: Region, core: Box) -> DetailOutput | None:
        """Ref's detail on a rectangle and the share of it that is added; None without a skip."""
        if self.model.trust is None or self.known.carried is None:
            return None
        frame, found = self.inputs.frame, self.known.found
        near = snapped(grown(core, self.trust_halo, frame), LR_PER_CELL)
        cells, all_cells = (scaled(box, Fraction(1, LR_PER_CELL)) for box in (near, frame))
        maps, inside = self.known.carried.on(cells, all_cells, found.weight)
        confidence = to_pixels(cut(found.confidence, cells)).float()
        confidence = torch.where(inside, 1.0, confidence)
        trust = self.model.trust.in_picture(
            cut(region.lr_feat, within(near, region.box)),
            self._look(near),
            confidence,
            maps,
            inside,
        )
        inner = scaled(within(core, near), SCALE)
        trust = self.trust * cut(trust, inner)
        return DetailOutput(trust, cut(maps[:, :3], inner), cut(inside, inner))

    def _look(self, near: Box) -> Float[Tensor, "1 1 _ _"]:
        """High-pass of the enlarged LR picture's luma."""
        around = -(-(self.model.detail_window_px // 2) // SCALE) + BICUBIC_REACH_PX
        far = grown(near, around, self.inputs.frame)
        large = luma(bicubic_up(self.inputs.part("lr", far)))
        return cut(high_pass(large, self.model.detail_window_px), scaled(within(near, far), SCALE))

    def to_look_at(self, region: Region, window: Box) -> Sources:
        near, lr_feat = self._around(window), self.enlarged(region, window).lr_feat
        if self.known.bank is None:
            nothing = np.zeros(lr_feat.shape[2:], np.float32)
            return Sources(nothing, None if self.model.dictionary is None else nothing, None)
        _, warped_feat = self._transferred(near)
        warped_feat = cut(warped_feat, scaled(within(window, near), SCALE))
        dict_feat = token_index = None
        if self.model.dictionary is not None and self.known.tokens is not None:
            dict_feat = self.model.dictionary.look_up(lr_feat, *self.known.tokens)
            index = self.model.dictionary.token_of_pixels(lr_feat, self.known.tokens[0])
            dict_feat, token_index = _mean_of_channels(dict_feat), index[0].cpu().numpy()
        return Sources(_mean_of_channels(warped_feat), dict_feat, token_index)

    def _around(self, window: Box) -> Box:
        """What a window looks at, in whole cells."""
        return snapped(grown(window, self.halo, self.inputs.frame), LR_PER_CELL)

    def _transferred(self, near: Box) -> tuple[Tensor, Tensor]:
        """Confidence and warped feature; the patches of the cells around reach in."""
        found = self.known.found
        cells, all_cells = (
            scaled(box, Fraction(1, LR_PER_CELL)) for box in (near, self.inputs.frame)
        )
        ring = grown(cells, 1, all_cells)
        index = rearrange(found.key_index, "b (y x) -> b 1 y x", y=found.weight.shape[2])
        bank = self.known.bank
        assert bank is not None
        warped_feat = transfer_patches(bank, cut(index, ring).flatten(1), cut(found.weight, ring))
        inner = scaled(within(cells, ring), SCALE * LR_PER_CELL)
        confidence = cut(found.confidence, cells)
        warped_feat = self.model.trusted_match(confidence, cut(warped_feat, inner))
        if self.known.carried is not None:
            self._lay_in_place(warped_feat, cells, bank)
        return confidence, warped_feat

    def _lay_in_place(
        self, warped_feat: Float[Tensor, "1 c _ _"], cells: Box, bank: CellBank
    ) -> None:
        """Overwrite what lies inside the snapped box with Ref's feature at its own place."""
        assert self.known.carried is not None
        box = scaled(self.known.carried.inputs.snapped, Fraction(1, CELL))
        area = overlap(cells, box)
        if area is None:
            return
        y0, y1, x0, x1 = (1 + edge for edge in within(area, box))
        own = rearrange(bank.cells[:, y0:y1, x0:x1], "b y x p r c -> b c (y p) (x r)")
        cut(warped_feat, scaled(within(area, cells), CELL)).copy_(own)


def trust_halo(model: SDDuSR) -> int:
    """LR pixels that the trust in the picture's frame looks around a rectangle."""
    if model.trust is None or not model.trust.learned:
        return 0
    windows, support = (
        -(-(side // 2) // SCALE) for side in (max(LOOK_PX, MEAN_PX), model.trust.support_px)
    )
    return reach(model.trust.of_place) + windows + BILINEAR_REACH_PX + support


def _mean_of_channels(features: Float[Tensor, "1 c h w"]) -> Float32[np.ndarray, "h w"]:
    return features[0].float().mean(dim=0).cpu().numpy()
