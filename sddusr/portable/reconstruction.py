"""From what is known about the frame to pixels, region by region and tile by tile."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from sddusr.config import LR_PER_CELL, SCALE
from sddusr.geometry.box import Box, crop, whole
from sddusr.geometry.tiling import grown, overlap, scaled, tiles, within
from sddusr.imaging.arrays import Pixels
from sddusr.inference import sample
from sddusr.portable.arrays import cut, part
from sddusr.portable.detail import RefDetail
from sddusr.portable.package import Package
from sddusr.portable.precompute import RefFeatures
from sddusr.portable.search import Search
from sddusr.portable.transfer import CELL, transfer_patches

Planes = Float32[np.ndarray, "1 c h w"]


class Frame(NamedTuple):
    """A photo and all that was found out about it."""

    lr: Pixels
    """Sides even."""
    found: Search
    features: RefFeatures | None
    """None without Ref."""
    detail: RefDetail | None
    """None without Ref, and where the network has no detail skip."""
    strength: float
    """0 to 1, scales the trust in Ref."""

    @property
    def box(self) -> Box:
        return whole(*self.lr.shape[:2])


class MadeTile(NamedTuple):
    """A part of the result."""

    core: Box
    """LR pixels."""
    sr: Float32[np.ndarray, "1 3 h w"]
    trust: Float32[np.ndarray, "1 1 h w"] | None
    detail: Float32[np.ndarray, "1 3 h w"] | None
    """Ref's detail, of which `trust` was added."""


class EncodedPart(NamedTuple):
    """LR's feature on a part of the frame."""

    box: Box
    planes: Planes

    def part(self, window: Box) -> Planes:
        """A view of a window of the frame."""
        return cut(self.planes, within(window, self.box))


class Reconstruction:
    """Makes the tiles of a frame.

    What pools over the frame is measured on all of it if one region holds it, else on an evenly
    spread sample, as `inference.regions` does.
    """

    def __init__(self, package: Package, frame: Frame, region_px: int, tile_px: int) -> None:
        self.package, self.frame, self.tile_px = package, frame, tile_px
        self.reaches = package.manifest.reaches
        self.regions = list(tiles(frame.box, region_px, LR_PER_CELL))

    def tiles(self, progress: Callable[[float], None]) -> Iterator[MadeTile]:
        """All tiles of the result."""
        if len(self.regions) == 1:
            made = self.package.first("encode", part(self.frame.lr, self.frame.box))
            whole_frame = EncodedPart(self.frame.box, made)
            cores = tiles(self.frame.box, self.tile_px, LR_PER_CELL)
            pools = self._pools((whole_frame, core) for core in cores)
            yield from self._tiles_of(self.frame.box, whole_frame, pools, progress)
            return
        encoder_pools = self._encoder_pools()
        sampled = sample.boxes(self.frame.box)
        pools = self._pools((self._encoded(core, encoder_pools), core) for core in sampled)
        for number, region in enumerate(self.regions):

            def report(share: float, number: int = number) -> None:
                progress((number + share) / len(self.regions))

            encoded = self._encoded(region, encoder_pools)
            yield from self._tiles_of(region, encoded, pools, report)

    def _tiles_of(
        self,
        region: Box,
        encoded: EncodedPart,
        pools: tuple[np.ndarray, np.ndarray],
        progress: Callable[[float], None],
    ) -> Iterator[MadeTile]:
        cores = list(tiles(region, self.tile_px, LR_PER_CELL))
        for done, core in enumerate(cores, start=1):
            yield self._tile(encoded, core, pools)
            progress(done / len(cores))

    def _encoded(self, core: Box, encoder_pools: np.ndarray) -> EncodedPart:
        """LR's feature for all that the tiles of a region read."""
        box = grown(core, self.reaches.tile_px, self.frame.box, LR_PER_CELL)
        window = grown(box, self.reaches.encoder_px, self.frame.box, LR_PER_CELL)
        made = self.package.first("encode_part", part(self.frame.lr, window), encoder_pools)
        return EncodedPart(box, cut(made, within(box, window)))

    def _encoder_pools(self) -> np.ndarray:
        """What the encoder's attentions pool, measured on the sample."""
        windows = [grown(core, sample.MARGIN, self.frame.box)
                   for core in sample.boxes(self.frame.box)]  # fmt: skip
        batch = np.concatenate([part(self.frame.lr, window) for window in windows])
        return self.package.first("encoder_pools", batch)

    def _pools(self, parts: Iterator[tuple[EncodedPart, Box]]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and maximum of each channel that the fusion's gate pools.

        Args:
            parts: LR's feature, and the rectangle to be pooled.
        """
        total, peak, num_px = 0.0, -np.inf, 0
        for encoded, core in parts:
            window = grown(core, self.reaches.gates_px, self.frame.box, LR_PER_CELL)
            made = self.package.first("gates", *self._fused(encoded, window))
            inner = cut(made, scaled(within(core, window), SCALE))
            total = total + inner.sum(axis=(2, 3), dtype=np.float64)
            peak = np.maximum(peak, inner.max(axis=(2, 3)))
            num_px += inner.shape[2] * inner.shape[3]
        shape = (1, self.reaches.wide_dim, 1, 1)
        mean = np.asarray(total) / num_px
        return mean.reshape(shape).astype(np.float32), np.asarray(peak).reshape(shape)

    def _fused(self, encoded: EncodedPart, window: Box) -> list[np.ndarray]:
        """What the fusion reads on a window of the frame, whose edges lie on whole cells."""
        frame = self.frame
        cells = scaled(window, Fraction(1, LR_PER_CELL))
        all_cells = scaled(frame.box, Fraction(1, LR_PER_CELL))
        confidence = crop(frame.found.confidence, cells)[None, None]
        inputs = [encoded.part(window), self._warped(cells, all_cells), confidence]
        if self.package.manifest.has_detail_skip:
            inputs.append(self._in_place(cells)[None, None])
        _, num, dim = self.package.manifest.tokens
        if num:
            nothing = (np.zeros((1, num, dim), np.float32),) * 2
            tokens = nothing if frame.features is None else frame.features.tokens
            inputs += [np.asarray(frame.features is not None, np.float32), *tokens]
        return inputs

    def _warped(self, cells: Box, all_cells: Box) -> Planes:
        """Ref's feature moved by the matches, or put at its own place inside the box."""
        features, found = self.frame.features, self.frame.found
        if features is None:
            sides = (CELL * cells.height, CELL * cells.width)
            return np.zeros((1, self.reaches.dim, *sides), np.float32)
        ring = grown(cells, 1, all_cells)
        moved = transfer_patches(
            features.bank, crop(found.key_index, ring), crop(found.weight, ring)
        )
        warped = cut(moved, scaled(within(cells, ring), CELL))
        if self.frame.detail is not None:
            box = scaled(self.frame.detail.snapped, Fraction(1, CELL))
            area = overlap(cells, box)
            if area is not None:
                place = scaled(within(area, cells), CELL)
                cut(warped, place)[:] = features.bank.part(within(area, box))
        return warped

    def _in_place(self, cells: Box) -> np.ndarray:
        """Cells whose feature lies at its own place."""
        in_place = np.zeros((cells.height, cells.width), bool)
        if self.frame.detail is not None:
            area = overlap(cells, scaled(self.frame.detail.snapped, Fraction(1, CELL)))
            if area is not None:
                crop(in_place, within(area, cells))[:] = True
        return in_place

    def _tile(
        self, encoded: EncodedPart, core: Box, pools: tuple[np.ndarray, np.ndarray]
    ) -> MadeTile:
        frame = self.frame
        window = grown(core, self.reaches.tile_px, frame.box, LR_PER_CELL)
        inner = scaled(within(core, window), SCALE)
        detail_inputs: list[np.ndarray] = []
        maps = None
        if self.package.manifest.has_detail_skip:
            maps, inside = self._detail_maps(window)
            strength = frame.strength if frame.detail is not None else 0.0
            detail_inputs = [np.asarray(strength, np.float32), maps, inside]
        made = self.package.run(
            "tile",
            part(frame.lr, window),
            *pools,
            *detail_inputs,
            *self._fused(encoded, window),
        )
        made = [cut(x, inner) for x in made]
        if maps is None or frame.detail is None:
            return MadeTile(core, made[0], None, None)
        return MadeTile(core, made[0], made[1], cut(maps, inner)[:, :3])

    def _detail_maps(self, window: Box) -> tuple[np.ndarray, np.ndarray]:
        """Ref's detail, look and logit at the picture's places, and where the box is."""
        cells = scaled(window, Fraction(1, LR_PER_CELL))
        if self.frame.detail is None:
            sides = (SCALE * window.height, SCALE * window.width)
            return np.zeros((1, 5, *sides), np.float32), np.zeros((1, 1, *sides), bool)
        all_cells = scaled(self.frame.box, Fraction(1, LR_PER_CELL))
        return self.frame.detail.on(cells, all_cells, self.frame.found)
