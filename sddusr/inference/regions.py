"""From what the frame knows to pixels, region by region and tile by tile."""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor

from sddusr.config import LR_PER_CELL, SCALE
from sddusr.geometry.box import Box
from sddusr.imaging.allocator import hand_back_freed_memory, keeping_freed_memory
from sddusr.imaging.resize import bicubic_up
from sddusr.inference import sample
from sddusr.inference.feature_map import TiledFeatureMap
from sddusr.inference.pooling import Pools, RunningPool, fixed_pools, measure_pools
from sddusr.inference.precompute import FrameFeatures, Inputs
from sddusr.inference.progress import WeightedProgress, counted
from sddusr.inference.sources import Region, SourceMaker, Sources
from sddusr.inference.tiles import cut, grown, in_tiles, lr_reach, scaled, tiles, within
from sddusr.inference.trust_map import TrustMap
from sddusr.model.fusion import Fusion
from sddusr.model.matching.nearest_key import Progress
from sddusr.model.sddusr import SDDuSR

DECODER_TILES = 2
"""The side of the decoder's tiles, as a multiple of the widest layers': it holds a third of their
channels for each pixel, and looks three times as far."""


class Reconstruction:
    """Makes the picture of a frame.

    LR's feature is encoded in regions, decoded in larger tiles and all else is done in small ones.
    The encoder looks furthest and holds least for each pixel, the fusion's widest layers look least
    far and hold most, so this wastes least.
    """

    def __init__(
        self,
        model: SDDuSR,
        inputs: Inputs,
        known: FrameFeatures,
        trust: float = 1.0,
        trust_map: TrustMap | None = None,
    ) -> None:
        self.model, self.inputs, self.trust_map = model, inputs, trust_map
        self.sources = SourceMaker(model, inputs, known, trust)
        fusion = model.fusion
        self.decoder_halo = lr_reach(fusion.body[-1], model.head)
        self.narrow_halo = lr_reach(fusion.widest, fusion.body[:-1])
        self.gated_halo = gated_halo(fusion)
        self.before_gates_halo = lr_reach(fusion.widest.body[:3])
        self.fusion_reach = self.decoder_halo + self.narrow_halo

    def pieces(
        self, region_px: int, tile_px: int, kept_maps: int, progress: WeightedProgress
    ) -> Iterator[tuple[Box, Tensor]]:
        """The result, as (rectangle of LR, its pixels).

        What pools over the frame is measured on all of it if one region holds it, else on an
        evenly spread sample. The encoder's attentions hang on one another, so they are measured in
        one run over all that is looked at, the fusion's gate afterwards.

        Args:
            kept_maps: see `memory.Plan`.
            progress: receives that a stage, or a tile of it, is done.
        """
        regions = list(tiles(self.inputs.frame, region_px, LR_PER_CELL))
        if len(regions) == 1:
            yield from self._whole(tile_px, kept_maps, progress)
            return
        whole = progress.of("encode", "pool", "narrow", "decode")
        with fixed_pools(self._sampled_pools()):
            for index, core in enumerate(regions):

                def report(share: float, index: int = index) -> None:
                    whole((index + share) / len(regions))

                yield from self._made(self._encoded(core), core, tile_px, report)

    def _whole(
        self, tile_px: int, kept_maps: int, progress: WeightedProgress
    ) -> Iterator[tuple[Box, Tensor]]:
        """All tiles of a frame that is one region."""
        frame = self.inputs.frame
        region = self._encoded(frame)
        progress.of("encode")(1.0)
        cores = list(tiles(frame, tile_px, LR_PER_CELL))
        if len(cores) == 1:
            yield frame, self._made_tile(region, frame, tile_px)
            progress.of("pool", "narrow", "decode")(1.0)
        elif kept_maps:
            lr_feat, narrow = self._kept_and_narrowed(region, cores, kept_maps, progress)
            for core in self._decoder_tiles(frame, tile_px, progress.of("decode")):
                area = grown(core, self.decoder_halo, frame)
                there = scaled(area, SCALE)
                fused = lr_feat.part(there), narrow.part(there)
                yield core, self._decoded(region, core, area, *fused)
        else:
            pooled = counted(cores, progress.of("pool"))
            with fixed_pools(self._fusion_pools((region, core) for core in pooled)):
                yield from self._made(region, frame, tile_px, progress.of("narrow", "decode"))

    def _kept_and_narrowed(
        self, region: Region, cores: Sequence[Box], kept_maps: int, progress: WeightedProgress
    ) -> tuple[TiledFeatureMap, TiledFeatureMap]:
        """LR's feature and what the decoder reads, of a frame whose widest layers' work is kept.

        What goes into the fusion's gates is kept while they pool over the frame. Then it gives way,
        tile by tile, to what is returned: as many channels or a third less.
        """
        fusion, frame = self.model.fusion, self.inputs.frame
        windows = [grown(core, self.gated_halo, frame) for core in cores]
        hand_back_freed_memory()  # what follows keeps maps that fit into no gap
        kept = [
            TiledFeatureMap.empty(
                (scaled(w, SCALE) for w in windows), fusion.wide_dim, region.lr_feat
            )
            for _ in range(kept_maps)
        ]
        pooled = counted(cores, progress.of("pool"))
        pools = self._fusion_pools(((region, core) for core in pooled), kept)
        lr_feat, narrow = TiledFeatureMap(), TiledFeatureMap()
        report = progress.of("narrow")
        with fixed_pools(pools):
            for core, window in counted(list(zip(cores, windows, strict=True)), report):
                before_gates, *joined = (whole.take(scaled(window, SCALE)) for whole in kept)
                joined = joined[0] if joined else self._joined(region, window)
                here, inner = scaled(core, SCALE), scaled(within(core, window), SCALE)
                lr_feat.add(here, _copied(cut(joined[:, : fusion.dim], inner)))
                narrow.add(here, cut(fusion.narrowed(joined, before_gates), inner))
        return lr_feat, narrow

    def _decoder_tiles(self, area: Box, tile_px: int, progress: Progress) -> Iterator[Box]:
        return counted(list(tiles(area, DECODER_TILES * tile_px, LR_PER_CELL)), progress)

    def sources_of(self, window: Box, region_px: int) -> Sources:
        """What is fused with LR's feature in a rectangle of LR, on the matching grid."""
        if max(self.inputs.size) <= region_px:
            return self.sources.to_look_at(self._encoded(self.inputs.frame), window)
        with fixed_pools(self._sampled_pools()):
            return self.sources.to_look_at(self._encoded(window), window)

    def _encoded(self, core: Box) -> Region:
        return self.sources.encoded(core, self.fusion_reach)

    def _made(
        self, region: Region, area: Box, tile_px: int, progress: Progress
    ) -> Iterator[tuple[Box, Tensor]]:
        """The pixels of a part of a region, in tiles of which each is made from the start."""
        for core in self._decoder_tiles(area, tile_px, progress):
            yield core, self._made_tile(region, core, tile_px)

    def _made_tile(self, region: Region, core: Box, tile_px: int) -> Float[Tensor, "1 3 _ _"]:
        fusion, frame = self.model.fusion, self.inputs.frame
        area = grown(core, self.decoder_halo, frame)
        enlarged = self.sources.enlarged(region, grown(area, self.narrow_halo, frame))

        def narrowed(window: Box) -> Tensor:
            joined = self.sources.joined(enlarged, window)
            return fusion.narrowed(joined, fusion.before_gates(joined))

        side = tile_px + 2 * self.decoder_halo // DECODER_TILES  # no extra windows for the halo
        narrow = in_tiles(narrowed, area, side, self.narrow_halo, Fraction(SCALE), frame)
        return self._decoded(region, core, area, enlarged.part(area), narrow)

    def _joined(self, region: Region, window: Box) -> Float[Tensor, "1 wide _ _"]:
        return self.sources.joined(self.sources.enlarged(region, window), window)

    def _decoded(
        self,
        region: Region,
        core: Box,
        area: Box,
        lr_feat: Float[Tensor, "1 c _ _"],
        narrow: Tensor,
    ) -> Float[Tensor, "1 3 _ _"]:
        """The result's pixels for a rectangle.

        Args:
            area: what the features cover: the decoder's halo more.
        """
        fused = self.model.fusion.decoded(lr_feat, narrow)
        inner = scaled(within(core, area), SCALE)
        residual = cut(self.model.head(fused).float(), inner)
        enlarged = cut(bicubic_up(self.inputs.part("lr", area)), inner)
        skip = self.sources.trusted_detail(region, core)
        if skip is not None and self.trust_map is not None:
            self.trust_map.put(skip, core)
        return self.model.picture(residual, enlarged, skip)

    def _fusion_pools(
        self, cores: Iterable[tuple[Region, Box]], kept: Sequence[TiledFeatureMap] = ()
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
        self, running: RunningPool, region: Region, core: Box, kept: Sequence[TiledFeatureMap]
    ) -> None:
        """Add what goes into the fusion's gates in a rectangle; when it returns, all else is freed.

        Args:
            kept: maps of the frame that are filled: with that, and with the features fused.
        """
        window = grown(core, self.before_gates_halo, self.inputs.frame)
        here, inner = scaled(core, SCALE), scaled(within(core, window), SCALE)
        first, act, second = self.model.fusion.widest.body[:3]
        wide = self._joined(region, window)
        for whole in kept[1:]:
            whole.put(here, cut(wide, inner))
        # `fusion.before_gates`, but what is joined is freed before the second map is made.
        wide = first(wide)
        wide = second(act(wide))
        running.add(cut(wide, inner))
        for whole in kept[:1]:
            whole.put(here, cut(wide, inner))

    def _sampled_pools(self) -> Pools:
        cores = sample.boxes(self.inputs.frame)
        windows = [grown(core, sample.MARGIN, self.inputs.frame) for core in cores]
        with measure_pools(self.model.lr_encoder, sample.MARGIN) as pools:
            looked_at = torch.cat([self.inputs.part("lr", window) for window in windows])
            with keeping_freed_memory():
                self.model.lr_encoder.encode(looked_at)
        with fixed_pools(pools):
            return pools | self._fusion_pools((self._encoded(core), core) for core in cores)


def _copied(view: Float[Tensor, "1 c _ _"]) -> Float[Tensor, "1 c _ _"]:
    """The same by itself: what it is a view of may be freed."""
    return view.contiguous(memory_format=torch.channels_last)


def gated_halo(fusion: Fusion) -> int:
    """LR pixels that a tile reads around itself of what goes into the gates."""
    return lr_reach(fusion.widest.body[3:], fusion.body[:-1])
