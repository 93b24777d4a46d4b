"""From what the frame knows to pixels, region by region and tile by tile."""

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from sddusr.config import LR_PER_CELL, SCALE
from sddusr.inference import sample
from sddusr.inference.allocator import hand_back_freed_memory
from sddusr.inference.frame import Inputs, Knowledge
from sddusr.inference.pools import Pools, RunningPool, held, measured
from sddusr.inference.tiles import cut, grown, in_tiles, reach, scaled, snapped, tiles, within
from sddusr.model.sddusr import SDDuSR
from sddusr.model.warp import transfer_patches
from sddusr.types import Box

DECODER_TILES = 1.5
"""The side of the decoder's tiles, as a multiple of the widest layers': it holds a third of their
channels for each pixel, and looks three times as far. With 2 a picture of 448x896 takes 1 to 2 %
less time and 200 MB more."""


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


class Reconstruction:
    """Makes the picture of a frame.

    LR's feature is encoded in regions, decoded in larger tiles and all else is done in small ones.
    The encoder looks furthest and holds least for each pixel, the fusion's widest layers look least
    far and hold most, so this wastes least.
    """

    def __init__(self, model: SDDuSR, inputs: Inputs, known: Knowledge) -> None:
        self.model, self.inputs, self.known = model, inputs, known
        fusion = model.fusion
        self.decoder_halo = _halo(fusion.body[-1], model.head)
        self.narrow_halo = _halo(fusion.widest, fusion.body[:-1])
        self.gated_halo = _halo(fusion.widest.body[3:], fusion.body[:-1])
        self.before_gates_halo = _halo(fusion.widest.body[:3])
        self.sources_reach = max(_halo(model.confidence_conv), reach(model.lr_encoder.up))
        self.tile_reach = self.decoder_halo + self.narrow_halo + self.sources_reach
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
            yield from self._whole(tile_px, kept_maps)
            return
        with held(self._sampled_pools()):
            for core in regions:
                region = self._encoded(core)
                for tile in tiles(core, decoder_side(tile_px), LR_PER_CELL):
                    yield tile, self._made(region, tile, tile_px)

    def _whole(self, tile_px: int, kept_maps: int) -> Iterator[tuple[Box, Tensor]]:
        """All tiles of a frame that is one region."""
        frame = self.inputs.frame
        region = self._encoded(frame)
        cores = list(tiles(frame, tile_px, LR_PER_CELL))
        if len(cores) == 1:
            yield frame, self._made(region, frame, tile_px)
            return
        hand_back_freed_memory()  # what follows keeps maps that fit into no gap
        kept = [self._wide_map(region.lr_feat) for _ in range(kept_maps)]
        pools = self._fusion_pools(((region, core) for core in cores), kept)
        hand_back_freed_memory()  # the next pass works on pieces of other sizes
        with held(pools):
            for core in tiles(frame, decoder_side(tile_px), LR_PER_CELL):
                yield core, self._made(region, core, tile_px, *kept)

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
        near, lr_feat = self._around(window), self._enlarged(region, window).lr_feat
        _, warped_feat = self._transferred(near)
        warped_feat = cut(warped_feat, scaled(within(window, near), SCALE))
        dict_feat = token_index = None
        if self.model.dictionary is not None and self.known.tokens is not None:
            dict_feat = self.model.dictionary.look_up(lr_feat, *self.known.tokens)
            index = self.model.dictionary.token_of_pixels(lr_feat, self.known.tokens[0])
            dict_feat, token_index = _mean_of_channels(dict_feat), index[0].cpu().numpy()
        return Sources(_mean_of_channels(warped_feat), dict_feat, token_index)

    def _encoded(self, core: Box) -> Region:
        """The region that the tiles of a rectangle read."""
        box = grown(core, self.tile_reach, self.inputs.frame, LR_PER_CELL)
        window = grown(box, self.region_reach, self.inputs.frame, LR_PER_CELL)
        lr_feat = self.model.lr_encoder.encode(self.inputs.part("lr", window))
        return Region(box, cut(lr_feat, within(box, window)))

    def _enlarged(self, region: Region, window: Box) -> Enlarged:
        """LR's feature for a rectangle."""
        near = self._around(window)
        inner = scaled(within(window, near), SCALE)
        lr_feat = self.model.lr_encoder.up(cut(region.lr_feat, within(near, region.box)))
        return Enlarged(window, cut(lr_feat, inner))

    def _made(
        self,
        region: Region,
        core: Box,
        tile_px: int,
        before_gates: Float[Tensor, "1 wide h w"] | None = None,
        joined: Float[Tensor, "1 wide h w"] | None = None,
    ) -> Float[Tensor, "1 3 _ _"]:
        """The result's pixels for a rectangle.

        Args:
            tile_px: LR pixels a side of what the fusion's widest layers work on at once.
            before_gates: what goes into the fusion's gates, for the frame, where it was kept.
            joined: the features that are fused, likewise.
        """
        fusion, frame = self.model.fusion, self.inputs.frame
        halo = self.narrow_halo if before_gates is None else self.gated_halo
        area = grown(core, self.decoder_halo, frame)
        if joined is None:
            enlarged = self._enlarged(region, grown(area, halo, frame))
        else:
            enlarged = Enlarged(frame, joined[:, : fusion.dim])

        def narrowed(window: Box) -> Tensor:
            here = scaled(window, SCALE)
            if joined is None:
                wide = fusion.joined(*self._sources_of(enlarged, window))
            else:
                wide = cut(joined, here)
            if before_gates is None:
                return fusion.narrowed(wide, fusion.before_gates(wide))
            return fusion.narrowed(wide, cut(before_gates, here))

        sr_feat = fusion.decoded(
            enlarged.part(area),
            in_tiles(narrowed, area, tile_px, halo, Fraction(SCALE), frame),
        )
        sr = self.model.picture(self.inputs.part("lr", area), sr_feat)
        return cut(sr, scaled(within(core, area), SCALE))

    def _around(self, window: Box) -> Box:
        """What the sources of a window look at, in whole cells."""
        return snapped(grown(window, self.sources_reach, self.inputs.frame), LR_PER_CELL)

    def _sources_of(self, enlarged: Enlarged, window: Box) -> list[Tensor]:
        """What the fusion reads there: LR's feature and the two that the centre adds."""
        near, lr_feat = self._around(window), enlarged.part(window)
        (transferred,) = self.model.sources(*self._transferred(near), None)
        sources = [lr_feat, cut(transferred, scaled(within(window, near), SCALE))]
        if self.model.dictionary is not None and self.known.tokens is not None:
            sources.append(self.model.dictionary.look_up(lr_feat, *self.known.tokens))
        return sources

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

    def _fusion_pools(
        self,
        cores: Iterable[tuple[Region, Box]],
        kept: Sequence[Float[Tensor, "1 wide h w"]] = (),
    ) -> Pools:
        """What the fusion's gate reads of these rectangles.

        Args:
            kept: see `_pool`.
        """
        running = RunningPool()
        for region, core in cores:
            self._pool(running, region, core, kept)
        return running.values(self.model.fusion)

    def _pool(
        self,
        running: RunningPool,
        region: Region,
        core: Box,
        kept: Sequence[Float[Tensor, "1 wide h w"]],
    ) -> None:
        """Add what goes into the fusion's gates in a rectangle; when it returns, all else is freed.

        Args:
            kept: maps of the frame that are filled: with that, and with the features fused.
        """
        fusion = self.model.fusion
        window = grown(core, self.before_gates_halo, self.inputs.frame)
        joined = fusion.joined(*self._sources_of(self._enlarged(region, window), window))
        before_gates = fusion.before_gates(joined)
        inner = scaled(within(core, window), SCALE)
        running.add(cut(before_gates, inner))
        for whole, wide in zip(kept, (before_gates, joined)[: len(kept)], strict=True):
            cut(whole, scaled(core, SCALE)).copy_(cut(wide, inner))

    def _sampled_pools(self) -> Pools:
        cores = sample.boxes(self.inputs.frame)
        windows = [grown(core, sample.MARGIN, self.inputs.frame) for core in cores]
        with measured(self.model.lr_encoder, sample.MARGIN) as pools:
            self.model.lr_encoder.encode(
                torch.cat([self.inputs.part("lr", window) for window in windows])
            )
        with held(pools):
            return pools | self._fusion_pools((self._encoded(core), core) for core in cores)


def decoder_side(tile_px: int) -> int:
    """LR pixels a side of the decoder's tiles, where the widest layers' have `tile_px`."""
    return int(DECODER_TILES * tile_px) // LR_PER_CELL * LR_PER_CELL


def _halo(*layers: nn.Module) -> int:
    """LR pixels that layers of the 2x grid look beyond their own."""
    return math.ceil(reach(*layers) / SCALE)


def _mean_of_channels(features: Float[Tensor, "1 c h w"]) -> Float32[np.ndarray, "h w"]:
    return features[0].float().mean(dim=0).cpu().numpy()
