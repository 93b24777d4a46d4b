"""What no homography explains: a smooth flow, followed if held-out places prove it."""

from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool

from sddusr.geometry.homography import Homography
from sddusr.registration.flow_filter import (
    StructureTensor,
    bounded,
    seen_length,
    smooth_flow,
    structure_tensor,
)
from sddusr.registration.overlap import (
    CONSISTENT_PX,
    Flow,
    Grey,
    Overlap,
    cut_overlap,
    dense_flow,
    detail_correlation,
    walk,
)

MAX_PIXELS = 4_000_000
MAX_SCALE = 2.0
"""Of the overlap, over the wide picture's density."""
BLOCK_PX = 32
"""Side of the blocks that are held out in turn."""
MIN_GAIN = 0.1
"""Share of the missing correlation (1 - ncc) that the flow must explain on held-out blocks."""


class Parallax(NamedTuple):
    """The steps that the tele picture needs beyond a homography."""

    flow: Flow | None
    """In pixels of the overlap; None: the homography is all there is."""
    to_wide: Homography
    """Pixels of the overlap to pixels of the wide picture."""
    record: dict[str, Any]


def follow_parallax(
    wide: Grey,
    tele: Grey,
    homography: Homography,
    min_gain: float,
    visible: Bool[np.ndarray, "_ _"] | None = None,
) -> Parallax:
    """`estimate_parallax` of two whole pictures; `homography` leads from tele to wide pixels."""
    overlap = cut_overlap(wide, tele, homography, MAX_PIXELS, MAX_SCALE, visible)
    return estimate_parallax(overlap, min_gain)


def estimate_parallax(overlap: Overlap, min_gain: float = MIN_GAIN) -> Parallax:
    """A smooth flow from the wide to the tele picture of an overlap.

    Dense inverse search is smoothed, with less weight where a step's way back misses its start.
    Half of the blocks predict the other half and the other way round; the flow is followed if that
    explains `min_gain` of the correlation of detail that the homography leaves missing.
    """
    fixed, inside = overlap.wide, overlap.inside
    moving = _match_contrast(overlap.tele, fixed, inside)
    there, back = dense_flow(fixed, moving), dense_flow(moving, fixed)
    texture = structure_tensor(fixed)
    missed = seen_length(there + walk(back, there, cv2.INTER_LINEAR), texture)
    belief = inside / np.square(1 + np.square(missed / CONSISTENT_PX))
    weight = bounded(texture) * belief[..., None].astype(np.float32)
    flow = smooth_flow(there, weight)
    before = detail_correlation(fixed, moving, inside)
    after = detail_correlation(fixed, walk(moving, flow), inside)
    held_out = _held_out_correlation(fixed, moving, there, weight, inside)
    length = np.linalg.norm(flow[inside], axis=1) if inside.any() else np.zeros(1)
    record = {
        "ncc_before": before,
        "ncc_after": after,
        "ncc_held_out": held_out,
        "followed": bool(held_out - before >= min_gain * (1 - before)),
        "share": float((missed[inside] < CONSISTENT_PX).mean()) if inside.any() else 0.0,
        "p95_px": float(np.quantile(length, 0.95)) * float(overlap.to_wide[0, 0]),
    }
    return Parallax(flow if record["followed"] else None, overlap.to_wide, record)


def _held_out_correlation(
    fixed: Grey,
    moving: Grey,
    flow: Flow,
    weight: StructureTensor,
    inside: Bool[np.ndarray, "rows cols"],
) -> float:
    """Correlation of detail where each block follows what the blocks around it say."""
    rows, cols = inside.shape
    y, x = np.arange(rows) // BLOCK_PX, np.arange(cols) // BLOCK_PX
    odd = ((y[:, None, None] + x[:, None]) % 2).astype(bool)
    predicted = np.where(odd, smooth_flow(flow, weight * ~odd), smooth_flow(flow, weight * odd))
    return detail_correlation(fixed, walk(moving, predicted), inside)


def _match_contrast(picture: Grey, other: Grey, inside: Bool[np.ndarray, "rows cols"]) -> Grey:
    """A picture with the mean and contrast that another has where both show something."""
    if not inside.any():
        return picture
    seen, wanted = picture[inside].astype(np.float32), other[inside].astype(np.float32)
    gain = float(wanted.std()) / max(float(seen.std()), 1.0)
    shifted = (picture.astype(np.float32) - float(seen.mean())) * gain + float(wanted.mean())
    return np.clip(shifted, 0, 255).astype(np.uint8)
