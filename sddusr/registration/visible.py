"""Where a tele picture shows something: not in letterbox bars, not where it is transparent."""

import cv2
import numpy as np
from jaxtyping import Bool, UInt8, UInt16

Pixels = UInt8[np.ndarray, "_ _ 3"] | UInt16[np.ndarray, "_ _ 3"]

BAR_RANGE = 6 / 255
"""Largest difference within a row or column that still belongs to a bar (JPEG leaves some)."""
MIN_BAR_PX = 3
"""Thinner uniform strips are left alone."""
EDGE_PX = 1
"""Pixels beside a bar that its blur or JPEG block has touched."""


def visible_mask(
    tele: Pixels, alpha: UInt8[np.ndarray, "_ _"] | UInt16[np.ndarray, "_ _"] | None = None
) -> Bool[np.ndarray, "rows cols"]:
    """True where a tele picture shows the scene.

    False are uniform bars along its border (a letterbox, a frame) and what is not fully opaque. A
    uniform border that is scenery, such as a white sky, has no detail to lose.
    """
    mask = np.ones(tele.shape[:2], bool)
    limit = BAR_RANGE * np.iinfo(tele.dtype).max
    for axis in (0, 1):
        rows, turned = (mask, tele) if axis == 0 else (mask.T, tele.transpose(1, 0, 2))
        first, last = (_bar_length(turned[::step], limit) for step in (1, -1))
        if first + last < len(rows):
            rows[:first], rows[len(rows) - last :] = False, False
    if alpha is not None:
        opaque = (alpha == np.iinfo(alpha.dtype).max).astype(np.uint8)
        around = np.ones((2 * EDGE_PX + 1, 2 * EDGE_PX + 1), np.uint8)
        mask &= cv2.erode(opaque, around, borderValue=1) > 0
    return mask


def _bar_length(rows: Pixels, limit: float) -> int:
    """Rows from the first one on that all show one colour, and what they have touched."""
    color, length = np.median(rows[0], axis=0), 0
    while length < len(rows) and np.abs(rows[length] - color).max() <= limit:
        length += 1
    return min(length + EDGE_PX, len(rows)) if length >= MIN_BAR_PX else 0
