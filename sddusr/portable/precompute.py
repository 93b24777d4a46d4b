"""What all tiles of a photo share: the aligned Ref feature and the refined dictionaries."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from sddusr.config import SCALE
from sddusr.geometry.box import Box, whole
from sddusr.geometry.tiling import grown, scaled, tiles, within
from sddusr.imaging.arrays import Pixels
from sddusr.portable.arrays import cut, part, to_planes
from sddusr.portable.detail import RefDetail
from sddusr.portable.package import Package
from sddusr.portable.transfer import CELL, CellBank

ALIGNMENT_SIDE = 128
"""Pixels of the 2x grid a side of a tile of the alignment, whose graph samples all taps at once."""

ALIGNMENT_HALO_PX = 32
"""Of the 2x grid: what the alignment of a part of the centre may read around it; where the flow
asks for more, the part is cut smaller."""

BEFORE = -1e30
"""The largest logit before any pixel was seen."""

Planes = Float32[np.ndarray, "1 c h w"]


class RefFeatures(NamedTuple):
    """What the centre says about the rest of the picture."""

    bank: CellBank
    """The aligned Ref feature."""
    tokens: tuple[np.ndarray, ...]
    """The refined dictionaries; empty without one."""


def precompute_features(
    package: Package,
    center: Pixels,
    ref: Pixels,
    detail: RefDetail | None,
    *,
    side: int,
    strength: float,
    progress: Callable[[float], None],
) -> RefFeatures:
    """Align Ref, refine the dictionaries and fill in the logits of Ref's detail, tile by tile.

    Args:
        ref: on the 2x grid of `center`.
        side: of a part of the centre whose features are held at once, pixels of the 2x grid, a
            multiple of a cell.
        strength: scales how far Ref's feature is used, where the network has a detail skip.
    """
    rows, cols = (length // CELL for length in ref.shape[:2])
    bank = CellBank(rows, cols, package.manifest.reaches.dim)
    refinement = Refinement(package)
    frame, done = whole(*ref.shape[:2]), 0
    for core, center_feat, aligned_feat, logit in _aligned_tiles(
        package, center, ref, detail, side, strength
    ):
        bank.put(aligned_feat, core.y0 // CELL, core.x0 // CELL)
        if detail is not None and logit is not None:
            detail.put_logit(logit, core)
        refinement.add(center_feat, aligned_feat)
        done += core.height * core.width
        progress(done / (frame.height * frame.width))
    if detail is not None:
        detail.close()
    return RefFeatures(bank.close(), refinement.tokens())


class Refinement:
    """The dictionaries' attention over the centre, piece by piece (Eqs. 6 to 9)."""

    def __init__(self, package: Package) -> None:
        self.package = package
        heads, num, dim = package.manifest.tokens
        shape = (1, heads, num) if heads else (1, num)
        self.enabled = num > 0
        self.running = (
            np.full((*shape, 1), BEFORE, np.float32),
            np.zeros((*shape, 1), np.float32),
            *(np.zeros((*shape, dim), np.float32) for _ in range(2)),
        )

    def add(self, center_feat: Planes, aligned_feat: Planes) -> None:
        """One more piece of the centre."""
        if self.enabled:
            pixels = (x.reshape(1, x.shape[1], 1, -1) for x in (center_feat, aligned_feat))
            self.running = self.package.run("refine_piece", *pixels, *self.running)

    def tokens(self) -> tuple[np.ndarray, ...]:
        """Both dictionaries; nothing where the network has none."""
        return self.package.run("refine_tokens", *self.running) if self.enabled else ()


def _aligned_tiles(
    package: Package,
    center: Pixels,
    ref: Pixels,
    detail: RefDetail | None,
    side: int,
    strength: float,
) -> Iterator[tuple[Box, Planes, Planes, Planes | None]]:
    """Tiles of the centre: its feature, Ref's aligned feature and the logit of Ref's detail."""
    reaches = package.manifest.reaches
    flow = package.first("flow", to_planes(center), to_planes(ref))
    frame = whole(*ref.shape[:2])
    halo = max(reaches.ref_encoder_px, SCALE * reaches.center_encoder_px)
    for region, around in _regions(reaches.max_offset_px, reaches.align_px, flow, frame, side):
        near = grown(region, around, frame, SCALE)
        far = grown(near, halo, frame, SCALE)
        inner = within(near, far)
        half = scaled(far, Fraction(1, SCALE))
        center_feat = cut(package.first("center_encoder", part(center, half)), inner)
        ref_feat = cut(package.first("ref_encoder", part(ref, far)), inner)
        for core in tiles(region, ALIGNMENT_SIDE, CELL):
            window = grown(core, reaches.align_px, frame)
            place = within(window, near)
            inputs = [
                cut(flow, window),
                cut(center_feat, place),
                ref_feat,
                np.array([place.y0, place.x0]),
            ]
            if detail is not None:
                inputs += [
                    *detail.evidence(window),
                    detail.statistics,
                    np.asarray(strength, np.float32),
                ]
            made = [cut(x, within(core, window)) for x in package.run("align", *inputs)]
            logit = made[1] if len(made) > 1 else None
            yield core, cut(center_feat, within(core, near)), made[0], logit


def _regions(
    max_offset_px: int, align_px: int, flow: Planes, frame: Box, side: int
) -> Iterator[tuple[Box, int]]:
    """Parts of the centre whose features are held at once, and how far around them their tiles
    read: as far as the flow there points and the offsets on it."""

    def reach(core: Box) -> int:
        tap_and_bilinear = 2
        furthest = float(np.abs(cut(flow, grown(core, align_px, frame))).max())
        return math.ceil(furthest) + align_px + max_offset_px + tap_and_bilinear

    for core in tiles(frame, side, CELL):
        around = reach(core)
        room = max(side + 2 * (ALIGNMENT_HALO_PX - around), 4 * CELL) // CELL * CELL
        if around <= ALIGNMENT_HALO_PX or max(core.height, core.width) <= room:
            yield core, around
        else:
            for part_of_core in tiles(core, room, CELL):
                yield part_of_core, reach(part_of_core)
