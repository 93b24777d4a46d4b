"""A wide and a tele picture in, a picture twice as large out, by the graphs of a package."""

from fractions import Fraction
from typing import Any

import numpy as np

from sddusr.config import LR_PER_CELL, SCALE
from sddusr.geometry.box import HR_PER_CELL, AlignedRef, Box, align_ref, check_box, crop, to_lr
from sddusr.geometry.tiling import scaled
from sddusr.imaging.arrays import Pixels, padded_to_even, quantize
from sddusr.inference.result import Matches, Upscaled, is_without_ref
from sddusr.portable.detail import RefDetail
from sddusr.portable.memory import PortablePlan, plan_memory
from sddusr.portable.package import Package
from sddusr.portable.precompute import precompute_features
from sddusr.portable.reconstruction import Frame, MadeTile, Reconstruction
from sddusr.portable.search import Progress, Search, nothing_found, search
from sddusr.portable.transfer import CELL

READ, SEARCHED = 0.4, 0.75
"""Shares of the work: when all about Ref is known; and of that, when the search is done."""


def super_resolve(
    package: Package,
    lr: Pixels,
    ref: Pixels,
    box: Box,
    *,
    dtype: Any = np.float32,
    memory_bytes: int | None = None,
    memory_share: float = 1.0,
    plan: PortablePlan | None = None,
    progress: Progress = lambda share: None,
    trust: float = 1.0,
    without_ref: bool = False,
) -> Upscaled:
    """Run a package on whole pictures of any size, as `inference.super_resolve` runs the network.

    The search is exact.

    Args:
        lr, ref: RGB, uint8 or uint16.
        box: where `ref` lies in the result, HR pixels.
        dtype: of the result: float32, or uint8 or uint16, clamped and rounded.
        memory_bytes: what the process may take at its peak; None takes most of what is free.
        memory_share: of what is free, where other processes work beside this one.
        plan: how to cut the picture; None lets the memory decide.
        progress: receives the share of the work that is done.
        trust: 0 to 1, scales how far Ref is trusted by a network with a detail skip.
        without_ref: leave Ref out.

    Raises:
        ValueError: `box` leaves the result, `ref` does not have its size, or the memory is too
            small.
    """
    height, width = lr.shape[:2]
    without_ref = is_without_ref(trust, without_ref, package.manifest.has_detail_skip)
    check_box(box, (SCALE * height, SCALE * width), "Ref")
    aligned = align_ref(ref, box)
    even, center = padded_to_even(lr), crop(lr, to_lr(aligned.box))
    result = np.empty((SCALE * height, SCALE * width, 3), dtype)
    if plan is None:
        plan = plan_memory(
            package, even.shape[:2], center.shape[:2], result.nbytes, memory_bytes, memory_share
        )
    rows, cols = (side // LR_PER_CELL for side in even.shape[:2])
    frame = Frame(even, nothing_found(rows, cols), None, None, trust)
    if not without_ref:
        frame = _read_ref(package, frame, ref, box, aligned, plan, _share_of(progress, 0.0, READ))
    made = Reconstruction(package, frame, plan.region_px, plan.tile_px)
    trust_map = TrustMap(rows, cols)
    for tile in made.tiles(_share_of(progress, READ, 1.0)):
        _write(result, tile)
        trust_map.put(tile)
    return Upscaled(
        result,
        _matches(frame.found, center),
        aligned.box,
        plan,
        trust=None if frame.detail is None else trust_map.trust,
        detail_energy=None if frame.detail is None else trust_map.energy,
        without_ref=without_ref,
    )


def _share_of(progress: Progress, start: float, stop: float) -> Progress:
    """Progress of a stage that begins and ends at these shares of the work."""
    return lambda share: progress(start + (stop - start) * share)


def _read_ref(
    package: Package,
    frame: Frame,
    ref: Pixels,
    box: Box,
    aligned: AlignedRef,
    plan: PortablePlan,
    progress: Progress,
) -> Frame:
    """The frame with its matches and all that Ref says about it."""
    center = crop(frame.lr, to_lr(aligned.box))
    found = search(package, frame.lr, center, aligned.box, _share_of(progress, 0.0, SEARCHED))
    detail = None
    if package.manifest.has_detail_skip:
        inside = crop(found.confidence, scaled(aligned.box, Fraction(1, CELL)))
        inside[:] = 1  # a cell of the centre is its own twin
        detail = RefDetail(package, frame.lr, ref, box, aligned.box)
    features = precompute_features(
        package,
        center,
        aligned.ref,
        detail,
        side=SCALE * plan.center_px,
        strength=frame.strength,
        progress=_share_of(progress, SEARCHED, 1.0),
    )
    return frame._replace(found=found, features=features, detail=detail)


class TrustMap:
    """Mean trust in Ref's detail and mean square of that detail, for each cell."""

    def __init__(self, rows: int, cols: int) -> None:
        self.trust, self.energy = (np.zeros((rows, cols), np.float32) for _ in range(2))

    def put(self, tile: MadeTile) -> None:
        """Write a tile."""
        if tile.trust is None or tile.detail is None:
            return
        cells = scaled(tile.core, Fraction(1, LR_PER_CELL))
        crop(self.trust, cells)[:] = _mean_of_cells(tile.trust[0, 0])
        crop(self.energy, cells)[:] = _mean_of_cells(np.square(tile.detail[0]).mean(0))


def _mean_of_cells(plane: np.ndarray) -> np.ndarray:
    rows, cols = (side // CELL for side in plane.shape)
    return plane.reshape(rows, CELL, cols, CELL).mean(axis=(1, 3))


def _write(result: np.ndarray, tile: MadeTile) -> None:
    """Put a tile in its place; what padding added to an odd side is left out."""
    place = crop(result, scaled(tile.core, SCALE))
    picture = tile.sr[0].transpose(1, 2, 0)[: place.shape[0], : place.shape[1]]
    is_integer = np.issubdtype(result.dtype, np.integer)
    place[:] = quantize(picture, result.dtype) if is_integer else picture


def _matches(found: Search, center: Pixels) -> Matches:
    rows, cols = (SCALE * side // HR_PER_CELL for side in center.shape[:2])
    weight = None if found.query_mask is None else found.weight > 0
    return Matches(found.confidence, weight, found.key_mask, found.key_index, (rows, cols))
