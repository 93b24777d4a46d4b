"""From what the frame knows to pixels, region by region and tile by tile."""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from sddusr.config import LR_PER_CELL, SCALE
from sddusr.inference.allocator import hand_back_freed_memory
from sddusr.inference.frame import Inputs, Knowledge
from sddusr.inference.pools import Pools, RunningPool, held, measured
from sddusr.inference.tiles import cut, grown, reach, scaled, snapped, tiles, within
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
        fusion = model.fusion
        self.tile_halo = _halo(fusion, model.head)
        self.before_gates_halo = _halo(fusion.widest.body[:3])
        self.gated_halo = _halo(fusion.widest.body[3:], fusion.body, model.head)
        self.sources_reach = max(_halo(model.confidence_conv), reach(model.lr_encoder.up))
        self.tile_reach = self.tile_halo + self.sources_reach
        self.region_reach = reach(model.lr_encoder.head, model.lr_encoder.body)

    def pieces(self, region_px: int, tile_px: int, kept_maps: int) -> Iterator[tuple[Box, Tensor]]:
        """The result, as (rectangle of LR, its pixels).

        What pools over the frame is measured on all of it if one region holds it, else on an
        evenly spread sample. The encoder's attentions hang on one another, so they are measured in
        one run over all that is looked at, the fusion's gate afterwards.

        Args:
            kept_maps: see `memory.Plan`.
        """
        regions = list(tiles(self.inputs.frame, region_px, LR_PER_CELL))
        if len(regions) == 1:
            cores = list(tiles(self.inputs.frame, tile_px, LR_PER_CELL))
            yield from self._whole(cores, kept_maps)
            return
        with held(self._sampled_pools()):
            for core in regions:
                region = self._encoded(core)
                for tile in tiles(core, tile_px, LR_PER_CELL):
                    yield tile, self._made(region, tile)

    def _whole(self, cores: list[Box], kept_maps: int) -> Iterator[tuple[Box, Tensor]]:
        """All tiles of a frame that is one region."""
        region = self._encoded(self.inputs.frame)
        if len(cores) == 1:
            yield cores[0], self._made(region, cores[0])
            return
        hand_back_freed_memory()  # what follows keeps maps that fit into no gap
        kept, running = [self._wide_map(region.lr_feat) for _ in range(kept_maps)], RunningPool()
        for core, joined, before_gates in self._before_gates((region, core) for core in cores):
            running.add(before_gates)
            pieces = (before_gates, joined)[:kept_maps]
            for whole, piece in zip(kept, pieces, strict=True):
                cut(whole, scaled(core, SCALE)).copy_(piece)
        hand_back_freed_memory()  # the next pass works on pieces of other sizes
        with held(running.values(self.model.fusion)):
            yield from ((core, self._made(region, core, *kept)) for core in cores)

    def _wide_map(self, like: Tensor) -> Float[Tensor, "1 wide h w"]:
        """Room for one of the fusion's widest maps, of the frame's 2x grid."""
        size = (1, self.model.fusion.wide_dim, *(SCALE * side for side in self.inputs.size))
        return torch.empty(
            size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
        )

    def sources(self, window: Box, region_px: int) -> Sources:
        """What is fused with LR's feature in a rectangle of LR, on the matching grid."""
        if max(self.inputs.size) <= region_px:
            return self._sources(self._encoded(self.inputs.frame), window)
        with held(self._sampled_pools()):
            return self._sources(self._encoded(window), window)

    def _sources(self, region: Region, window: Box) -> Sources:
        near = self._around(window)
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

    def _made(
        self,
        region: Region,
        core: Box,
        before_gates: Float[Tensor, "1 wide h w"] | None = None,
        joined: Float[Tensor, "1 wide h w"] | None = None,
    ) -> Float[Tensor, "1 3 _ _"]:
        """The result's pixels for a rectangle.

        Args:
            before_gates: what goes into the fusion's gates, for the frame, where it was kept.
            joined: the features that are fused, likewise.
        """
        fusion = self.model.fusion
        halo = self.tile_halo if before_gates is None else self.gated_halo
        window = grown(core, halo, self.inputs.frame)
        if joined is None:
            here = fusion.joined(*self._sources_of(region, window))
        else:
            here = cut(joined, scaled(window, SCALE))
        if before_gates is None:
            sr_feat = fusion.gated(here, fusion.before_gates(here))
        else:
            sr_feat = fusion.gated(here, cut(before_gates, scaled(window, SCALE)))
        sr = self.model.picture(self.inputs.part("lr", window), sr_feat)
        return cut(sr, scaled(within(core, window), SCALE))

    def _around(self, window: Box) -> Box:
        """What the sources of a window look at, in whole cells."""
        return snapped(grown(window, self.sources_reach, self.inputs.frame), LR_PER_CELL)

    def _sources_of(self, region: Region, window: Box) -> list[Tensor]:
        """What the fusion reads there: LR's feature and the two that the centre adds."""
        near = self._around(window)
        lr_feat = self._lr_feat(region, near)
        confidence, warped_feat = self._transferred(near)
        dict_feat = None
        if self.model.dictionary is not None and self.known.tokens is not None:
            dict_feat = self.model.dictionary.look_up(lr_feat, *self.known.tokens)
        sources = [lr_feat, *self.model.sources(confidence, warped_feat, dict_feat)]
        return [cut(source, scaled(within(window, near), SCALE)) for source in sources]

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

    def _before_gates(
        self, cores: Iterable[tuple[Region, Box]]
    ) -> Iterator[tuple[Box, Float[Tensor, "1 wide _ _"], Float[Tensor, "1 wide _ _"]]]:
        """For each of these rectangles, what is fused and what goes into the gates."""
        fusion = self.model.fusion
        for region, core in cores:
            window = grown(core, self.before_gates_halo, self.inputs.frame)
            joined = fusion.joined(*self._sources_of(region, window))
            inner = scaled(within(core, window), SCALE)
            yield core, cut(joined, inner), cut(fusion.before_gates(joined), inner)

    def _fusion_pools(self, cores: Iterable[tuple[Region, Box]]) -> Pools:
        """What the fusion's gate reads of these rectangles."""
        running = RunningPool()
        for _, _, before_gates in self._before_gates(cores):
            running.add(before_gates)
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


def _halo(*layers: nn.Module) -> int:
    """LR pixels that layers of the 2x grid look beyond their own."""
    return math.ceil(reach(*layers) / SCALE)


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
