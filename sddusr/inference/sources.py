"""What the fusion reads in a rectangle of the frame: LR's feature and what the centre adds."""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import Float, Float32, Int
from torch import Tensor

from sddusr.config import LR_PER_CELL, SCALE
from sddusr.geometry.box import Box
from sddusr.inference.precompute import Inputs, Knowledge
from sddusr.inference.tiles import cut, grown, lr_reach, reach, scaled, snapped, within
from sddusr.model.matching.transfer import transfer_patches
from sddusr.model.sddusr import SDDuSR


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

    def __init__(self, model: SDDuSR, inputs: Inputs, known: Knowledge) -> None:
        self.model, self.inputs, self.known = model, inputs, known
        self.halo = max(lr_reach(model.confidence_conv), reach(model.lr_encoder.up))
        """LR pixels that it looks around a rectangle."""
        self.encoder_halo = reach(model.lr_encoder.head, model.lr_encoder.body)

    def encoded(self, core: Box, around: int) -> Region:
        """What rectangles within `core` read, if they look at most `around` LR pixels further."""
        box = grown(core, around + self.halo, self.inputs.frame, LR_PER_CELL)
        window = grown(box, self.encoder_halo, self.inputs.frame, LR_PER_CELL)
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
        (transferred,) = self.model.sources(*self._transferred(near), None)
        sources = [cut(transferred, scaled(within(window, near), SCALE))]
        if self.model.dictionary is not None and self.known.tokens is not None:
            sources.append(self.model.dictionary.look_up(lr_feat, *self.known.tokens))
        return self.model.fusion.joined(lr_feat, *sources)

    def to_look_at(self, region: Region, window: Box) -> Sources:
        near, lr_feat = self._around(window), self.enlarged(region, window).lr_feat
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
        warped_feat = transfer_patches(
            self.known.bank, cut(index, ring).flatten(1), cut(found.weight, ring)
        )
        inner = scaled(within(cells, ring), SCALE * LR_PER_CELL)
        return cut(found.confidence, cells), cut(warped_feat, inner)


def _mean_of_channels(features: Float[Tensor, "1 c h w"]) -> Float32[np.ndarray, "h w"]:
    return features[0].float().mean(dim=0).cpu().numpy()
