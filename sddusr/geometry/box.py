"""Boxes in HR pixels: checks, crops, the snap to the matching grid; homographies of pixels."""

import math
from typing import NamedTuple

import numpy as np

from sddusr.config import LR_PER_CELL, SCALE


class Box(NamedTuple):
    """A rectangle in HR pixels, ends excluded; the order of the datasets' coordinate files."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    def shifted(self, dy: int, dx: int) -> "Box":
        """The same rectangle, moved."""
        return Box(self.y0 + dy, self.y1 + dy, self.x0 + dx, self.x1 + dx)


HR_PER_CELL = SCALE * LR_PER_CELL
"""HR pixels per cell of the matching grid."""


MIN_CELLS = 2
"""Cells that a centre needs along each axis: patches are reflected at its border."""


class AlignedRef(NamedTuple):
    """A tele picture on the matching grid, and where it lies in HR."""

    ref: np.ndarray
    box: Box


def whole(height: int, width: int) -> Box:
    return Box(0, height, 0, width)


def centered(height: int, width: int, within: Box) -> Box:
    """The box of this size in the middle of another, half a pixel up and left when odd."""
    y0 = within.y0 + (within.height - height) // 2
    x0 = within.x0 + (within.width - width) // 2
    return Box(y0, y0 + height, x0, x0 + width)


def check_box(box: Box, hr_shape: tuple[int, ...], name: str) -> None:
    """Raise ValueError unless the box is inside HR and large enough at any phase of the grid."""
    height, width = hr_shape[:2]
    least = (MIN_CELLS + 1) * HR_PER_CELL - 1
    inside = min(box.y0, box.x0) >= 0 and box.y1 <= height and box.x1 <= width
    if not inside or min(box.height, box.width) < least:
        raise ValueError(
            f"{name}: centre box is {list(box)}, need [y0, y1, x0, x1] inside HR's "
            f"{height}x{width} pixels and {least} pixels or more along each axis"
        )


def snap_box(box: Box) -> Box:
    """The largest box inside this one whose sides lie on the matching grid.

    VGG halves the LR grid, so a box at an odd LR offset has no exact twin among the query cells;
    multiples of 4 HR pixels are even LR offsets.

    Raises:
        ValueError: nothing is left.
    """
    low_y, low_x = (math.ceil(start / HR_PER_CELL) * HR_PER_CELL for start in (box.y0, box.x0))
    high_y, high_x = (end // HR_PER_CELL * HR_PER_CELL for end in (box.y1, box.x1))
    if low_y >= high_y or low_x >= high_x:
        raise ValueError(f"centre box {list(box)} holds no whole cell of {HR_PER_CELL} HR pixels")
    return Box(low_y, high_y, low_x, high_x)


def to_lr(box: Box) -> Box:
    """The same rectangle in LR pixels; exact for snapped boxes."""
    return Box(*(side // SCALE for side in box))


def crop(picture: np.ndarray, box: Box) -> np.ndarray:
    """A view of the rectangle, in the picture's own pixels."""
    return picture[box.y0 : box.y1, box.x0 : box.x1]


def align_ref(ref: np.ndarray, box: Box) -> AlignedRef:
    """Snap a centre box to the matching grid and trim Ref by the same amount.

    Raises:
        ValueError: Ref does not have the box's size, or nothing is left.
    """
    if ref.shape[:2] != (box.height, box.width):
        raise ValueError(
            f"Ref is {ref.shape[0]}x{ref.shape[1]}, need the {box.height}x{box.width} pixels of "
            f"its centre box {list(box)}"
        )
    snapped = snap_box(box)
    inner = Box(snapped.y0 - box.y0, snapped.y1 - box.y0, snapped.x0 - box.x0, snapped.x1 - box.x0)
    return AlignedRef(crop(ref, inner), snapped)
