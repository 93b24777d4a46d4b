"""Homographies between the pixels of two pictures."""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float64, Int

from sddusr.geometry.box import HR_PER_CELL, Box

Homography = Float64[np.ndarray, "3 3"]
"""On columns (x, y, 1) in pixels of two pictures; whole numbers are pixel centres."""


Points = Float64[np.ndarray, "_ 2"]
"""x, y in pixels: OpenCV's order, not ours."""


class View(NamedTuple):
    """What a homography makes of the tele picture."""

    zoom: float
    """Tele pixels per wide pixel, in the middle."""
    rotation_deg: float
    anisotropy: float
    perspective: float
    overlap: float
    """Share of the tele picture inside the wide one."""


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
