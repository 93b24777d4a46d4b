"""Boxes in HR pixels: checks, crops, the snap to the matching grid; homographies of pixels."""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float64, Int

from sddusr.config import LR_PER_CELL, SCALE
from sddusr.types import Box

HR_PER_CELL = SCALE * LR_PER_CELL
"""HR pixels per cell of the matching grid."""


MIN_CELLS = 2
"""Cells that a centre needs along each axis: patches are reflected at its border."""

Homography = Float64[np.ndarray, "3 3"]
"""On columns (x, y, 1) in pixels of two pictures; whole numbers are pixel centres."""
Points = Float64[np.ndarray, "_ 2"]
"""x, y in pixels: OpenCV's order, not ours."""


class AlignedRef(NamedTuple):
    """A tele picture on the matching grid, and where it lies in HR."""

    ref: np.ndarray
    box: Box


class View(NamedTuple):
    """What a homography makes of the tele picture."""

    zoom: float
    """Tele pixels per wide pixel, in the middle."""
    rotation_deg: float
    anisotropy: float
    perspective: float
    overlap: float
    """Share of the tele picture inside the wide one."""


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


def resizing(y_factor: float, x_factor: float) -> Homography:
    """Pixels of a resized picture to pixels of the original, `factor` of them for one.

    Both pictures share their outer corner, so 0.5 is added before scaling and taken off after.
    """
    return np.array(
        [[x_factor, 0, (x_factor - 1) / 2], [0, y_factor, (y_factor - 1) / 2], [0, 0, 1.0]]
    )


def transform(homography: Homography, points: Points) -> Points:
    """Where a homography takes points."""
    return cv2.perspectiveTransform(points[:, None], homography)[:, 0] if len(points) else points


def corner_points(shape: tuple[int, ...]) -> Points:
    """Centres of a picture's four corner pixels, clockwise from its first."""
    bottom, right = shape[0] - 1.0, shape[1] - 1.0
    return np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]])


def view_of(
    homography: Homography, tele_shape: tuple[int, ...], wide_shape: tuple[int, ...]
) -> View:
    """Measure a homography in the middle and at the corners of the tele picture."""
    corners = corner_points(tele_shape)
    left, stretch, right = np.linalg.svd(_jacobian(homography, corners.mean(0)))
    turn = left @ right
    areas = [abs(np.linalg.det(_jacobian(homography, corner))) for corner in corners]
    depth = corners @ homography[2, :2] + homography[2, 2]
    quad = transform(homography, corners).astype(np.float32)
    shared, _ = cv2.intersectConvexConvex(quad, corner_points(wide_shape).astype(np.float32))
    return View(
        zoom=1 / math.sqrt(stretch[0] * stretch[1]),
        rotation_deg=math.degrees(math.atan2(turn[1, 0], turn[0, 0])),
        anisotropy=float(stretch[0] / stretch[1]),
        perspective=math.sqrt(max(areas) / min(areas)) if depth.min() > 0 else math.inf,
        overlap=shared / max(cv2.contourArea(quad), 1e-9),
    )


def _jacobian(homography: Homography, point: Float64[np.ndarray, "2"]) -> np.ndarray:
    x, y, w = homography @ [*point, 1]
    return (homography[:2, :2] - np.outer([x / w, y / w], homography[2, :2])) / w


def box_inside(quad: Points, within: Box) -> Box | None:
    """The largest box on the matching grid whose pixels' centres lie in a convex quadrilateral.

    `quad` holds its corners in HR pixels, in order around it; `within` is a box that the result
    must not leave. None where no cell fits.
    """
    start = math.ceil(max(within.x0, quad[:, 0].min()) / HR_PER_CELL) * HR_PER_CELL
    end = math.floor(min(within.x1, quad[:, 0].max() + 1) / HR_PER_CELL) * HR_PER_CELL
    edges = np.arange(start, end + 1, HR_PER_CELL)
    if len(edges) < 2:
        return None
    left, right = edges[:-1], edges[1:]
    # A box is inside a convex shape if its four corners are.
    (top_l, bottom_l), (top_r, bottom_r) = _span(quad, left), _span(quad, right - 1)
    y0 = np.maximum.outer(top_l, top_r).clip(min=within.y0)
    y1 = np.minimum.outer(bottom_l, bottom_r).clip(max=within.y1 - 1) + 1
    y0 = np.ceil(y0 / HR_PER_CELL) * HR_PER_CELL
    y1 = np.floor(y1 / HR_PER_CELL) * HR_PER_CELL
    area = (y1 - y0).clip(min=0) * (right - left[:, None]).clip(min=0)
    first, last = np.unravel_index(area.argmax(), area.shape)
    if area[first, last] == 0:
        return None
    return Box(int(y0[first, last]), int(y1[first, last]), int(edges[first]), int(edges[last + 1]))


def _span(
    quad: Points, x: Int[np.ndarray, "lines"]
) -> tuple[Float64[np.ndarray, "lines"], Float64[np.ndarray, "lines"]]:
    """Where vertical lines at `x`, all inside the shape's width, enter and leave it."""
    enter, leave = np.full(len(x), np.inf), np.full(len(x), -np.inf)
    for (x_a, y_a), (x_b, y_b) in zip(quad, np.roll(quad, -1, axis=0), strict=True):
        if x_a == x_b:
            continue
        share = (x - x_a) / (x_b - x_a)
        y = y_a + share * (y_b - y_a)
        crossed = (share >= 0) & (share <= 1)
        enter[crossed] = np.minimum(enter[crossed], y[crossed])
        leave[crossed] = np.maximum(leave[crossed], y[crossed])
    return enter, leave


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
