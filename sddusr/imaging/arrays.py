"""Images as NumPy arrays: enlarged, padded and rounded, without PyTorch."""

from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8, UInt16

from sddusr.config import LR_PER_CELL, SCALE

Pixels = UInt8[np.ndarray, "_ _ 3"] | UInt16[np.ndarray, "_ _ 3"]
"""RGB of 8 or 16 bits a channel."""

PHASES = (
    ((-2, -1, 0, 1), (-0.0234375, 0.2265625, 0.8671875, -0.0703125)),
    ((-1, 0, 1, 2), (-0.0703125, 0.8671875, 0.2265625, -0.0234375)),
)
"""Taps and weights of Keys' cubic (a = -0.5) for the two places between pixels."""


def enlarge_bicubic(picture: Float32[np.ndarray, "h w *c"]) -> Float32[np.ndarray, "_ _ *c"]:
    """Twice as large, as `resize.bicubic_up` does; taps beyond the border are left out."""
    for axis in (1, 0):
        picture = _enlarge_axis(picture, axis)
    return picture


def _enlarge_axis(
    picture: Float32[np.ndarray, "h w *c"], axis: int
) -> Float32[np.ndarray, "_ _ *c"]:
    lines = np.moveaxis(picture, axis, 0)
    length, margin = len(lines), 2
    beyond = [(margin, margin), *[(0, 0)] * (lines.ndim - 1)]
    padded = np.pad(lines, beyond)
    inside = np.pad(np.ones(length, np.float32), margin)
    enlarged = np.empty((SCALE * length, *lines.shape[1:]), np.float32)
    for phase, (taps, weights) in enumerate(PHASES):
        total, summed = np.zeros(length, np.float32), np.zeros_like(lines, np.float32)
        for tap, weight in zip(taps, np.asarray(weights, np.float32), strict=True):
            here = slice(margin + tap, margin + tap + length)
            total += weight * inside[here]
            summed += weight * padded[here]
        enlarged[phase::SCALE] = summed / total.reshape(-1, *[1] * (lines.ndim - 1))
    return np.moveaxis(enlarged, 0, axis)


def padded_to_even(lr: Pixels) -> np.ndarray:
    """LR with its last row and column repeated where its sides are odd."""
    odd = [(0, -side % LR_PER_CELL) for side in lr.shape[:2]]
    return np.pad(lr, [*odd, (0, 0)], mode="edge") if any(pad for _, pad in odd) else lr


def quantize(picture: Float[np.ndarray, "h w 3"], dtype: Any) -> np.ndarray:
    """The picture as saved: clamped to 0..1 and rounded to an integer type's range."""
    return (picture.clip(0, 1) * np.iinfo(dtype).max).round().astype(dtype)
