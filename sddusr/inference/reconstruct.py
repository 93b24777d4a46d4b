"""From what the frame knows to pixels, region by region and tile by tile."""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32, Int
from torch import Tensor

from sddusr.config import LR_PER_CELL, SCALE
from sddusr.inference.frame import Inputs, Knowledge
from sddusr.inference.pools import Pools, RunningPool, held, measured
from sddusr.inference.tiles import cut, grown, reach, scaled, tiles, within
from sddusr.model.sddusr import SDDuSR
from sddusr.model.warp import transfer_patches
from sddusr.types import Box

SAMPLE_GRID = 8
"""Rows and columns of windows that stand for a frame whose encoder would not fit in memory."""

SAMPLE_SIDE = 64
"""LR pixels a side that each of them tells about."""

SAMPLE_MARGIN = 16
"""LR pixels around them that are computed too: what was padded there fades within."""


class Region(NamedTuple):
    """A part of LR whose feature is held while its tiles are made."""

    box: Box
    """What `lr_feat` covers, LR pixels."""
    lr_feat: Float[Tensor, "1 c _ _"]
    """On LR's grid, before it is enlarged."""


class Sources(NamedTuple):
    """What a part of the picture is made from besides LR itself, on the 2x grid, to look at."""

    warped_feat: Float32[np.ndarray, "h w"]
    """Mean over the channels of F^Warp, which holds zeros where cells did not search."""
    dict_feat: Float32[np.ndarray, "h w"] | None
    """Mean over the channels of F^Dict; None without a dictionary."""
    token_index: Int[np.ndarray, "h w"] | None
    """The token that each pixel reads most of."""


class Reconstruction:
    """Makes the picture of a frame.

    LR's feature is encoded in regions and all else in tiles. The encoder looks further than the
    fusion and holds far less for each pixel, so large regions and small tiles waste least.
    """

    def __init__(self, model: SDDuSR, inputs: Inputs, known: Knowledge) -> None:
        self.model, self.inputs, self.known = model, inputs, known
        fused = math.ceil(reach(model.confidence_conv, model.fusion, model.head) / SCALE)
        self.tile_reach = fused + reach(model.lr_encoder.up)
        self.region_reach = reach(model.lr_encoder.head, model.lr_encoder.body)

    def pieces(self, region_px: int, tile_px: int) -> Iterator[tuple[Box, Tensor]]:
        """The result, as (rectangle of LR, its pixels).

        What pools over the frame is measured on all of it if one region holds it, else on an
        evenly spread sample. The encoder's attentions hang on one another, so they are measured in
        one run over all that is looked at, the fusion's gate afterwards.
        """
        regions = list(tiles(self.inputs.frame, region_px, LR_PER_CELL))
        if len(regions) == 1:
            region = self._encoded(self.inputs.frame)
            cores = list(tiles(self.inputs.frame, tile_px, LR_PER_CELL))
            pools = self._fusion_pools((region, core) for core in cores) if len(cores) > 1 else {}
            with held(pools):
                yield from ((core, self._made(region, core)) for core in cores)
            return
        with held(self._sampled_pools()):
            for core in regions:
                region = self._encoded(core)
                for tile in tiles(core, tile_px, LR_PER_CELL):
                    yield tile, self._made(region, tile)

    def sources(self, window: Box, region_px: int) -> Sources:
        """What is fused with LR's feature in a rectangle of LR, on the matching grid."""
        if max(self.inputs.size) <= region_px:
            return self._sources(self._encoded(self.inputs.frame), window)
        with held(self._sampled_pools()):
            return self._sources(self._encoded(window), window)

    def _sources(self, region: Region, window: Box) -> Sources:
        near = self._near(window)
        inner = scaled(within(window, near), SCALE)
        lr_feat = self._lr_feat(region, near)
        _, warped_feat = self._transferred(near)
        dict_feat = token_index = None
        if self.model.dictionary is not None and self.known.tokens is not None:
            looked_up = self.model.dictionary.look_up(lr_feat, *self.known.tokens)
            dict_feat = _mean_of_channels(cut(looked_up, inner))
            index = self.model.dictionary.token_of_pixels(lr_feat, self.known.tokens[0])
            token_index = cut(index[:, None], inner)[0, 0].cpu().numpy()
        return Sources(_mean_of_channels(cut(warped_feat, inner)), dict_feat, token_index)

    def _lr_feat(self, region: Region, near: Box) -> Float[Tensor, "1 c _ _"]:
        return self.model.lr_encoder.up(cut(region.lr_feat, within(near, region.box)))

    def _encoded(self, core: Box) -> Region:
        """The region that the tiles of a rectangle read."""
        box = grown(core, self.tile_reach, self.inputs.frame, LR_PER_CELL)
        window = grown(box, self.region_reach, self.inputs.frame, LR_PER_CELL)
        lr_feat = self.model.lr_encoder.encode(self.inputs.part("lr", window))
        return Region(box, cut(lr_feat, within(box, window)))

    def _made(self, region: Region, core: Box) -> Float[Tensor, "1 3 _ _"]:
        """The result's pixels for a rectangle."""
        near = self._near(core)
        sr = self.model.picture(
            self.inputs.part("lr", near), self.model.fusion(*self._fused(region, near))
        )
        return cut(sr, scaled(within(core, near), SCALE))

    def _near(self, core: Box) -> Box:
        return grown(core, self.tile_reach, self.inputs.frame, LR_PER_CELL)

    def _fused(self, region: Region, near: Box) -> list[Tensor]:
        """What the fusion reads: LR's feature and the two that the centre adds."""
        lr_feat = self._lr_feat(region, near)
        confidence, warped_feat = self._transferred(near)
        dict_feat = None
        if self.model.dictionary is not None and self.known.tokens is not None:
            dict_feat = self.model.dictionary.look_up(lr_feat, *self.known.tokens)
        return [lr_feat, *self.model.sources(confidence, warped_feat, dict_feat)]

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

    def _fusion_pools(self, cores: Iterable[tuple[Region, Box]]) -> Pools:
        """What the fusion's gate reads of these rectangles."""
        running = RunningPool()
        for region, core in cores:
            near = self._near(core)
            piece = self.model.fusion.before_gates(*self._fused(region, near))
            running.add(cut(piece, scaled(within(core, near), SCALE)))
        return running.values(self.model.fusion)

    def _sampled_pools(self) -> Pools:
        cores = sample_boxes(self.inputs.frame)
        windows = [grown(core, SAMPLE_MARGIN, self.inputs.frame) for core in cores]
        with measured(self.model.lr_encoder, SAMPLE_MARGIN) as pools:
            self.model.lr_encoder.encode(
                torch.cat([self.inputs.part("lr", window) for window in windows])
            )
        with held(pools):
            return pools | self._fusion_pools((self._encoded(core), core) for core in cores)


def _mean_of_channels(features: Float[Tensor, "1 c h w"]) -> Float32[np.ndarray, "h w"]:
    return features[0].float().mean(dim=0).cpu().numpy()


def sample_boxes(frame: Box) -> list[Box]:
    """Squares of `SAMPLE_SIDE`, evenly spread and a margin off the frame's border, edges even."""
    room = SAMPLE_SIDE + 2 * SAMPLE_MARGIN
    starts_y, starts_x = (
        [round((length - room) / LR_PER_CELL * i / (SAMPLE_GRID - 1)) * LR_PER_CELL + SAMPLE_MARGIN
         for i in range(SAMPLE_GRID)]
        for length in (frame.height, frame.width)
    )  # fmt: skip
    return [Box(y, y + SAMPLE_SIDE, x, x + SAMPLE_SIDE) for y in starts_y for x in starts_x]
