"""The overlap of two pictures at one density: how alike they are there, what leads across."""

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from sddusr.geometry.homography import Homography, Points, corner_points, resizing, transform

Grey = UInt8[np.ndarray, "_ _"]
Mask = Bool[np.ndarray, "_ _"]
Flow = Float32[np.ndarray, "_ _ 2"]
"""x, y steps in pixels."""

DETAIL_SIGMAS_PX = 1.0, 8.0
"""Detail is what a blur by the first keeps and one by the second does not: no noise, no shading."""
HIDDEN_REACH_PX = 8
"""Pixels beside a bar or a transparent place that its blur reaches; they are not compared."""
MARGIN_PX = 4
"""Flow this near to the tele picture's border is not believed."""
CONSISTENT_PX = 0.5
"""A step is believed where the way back misses its start by less, and weighs a quarter there."""
NUM_FIT_POINTS = 6000
MIN_FLOW_PX = 12
"""Of the longer side: OpenCV's dense inverse search takes no smaller pictures."""
MAX_SIDE_PX = 32_766
"""OpenCV's `remap` reads and writes no longer sides."""


class Overlap(NamedTuple):
    """The part of the wide picture around the tele one, from both, pixel on pixel."""

    wide: Grey
    tele: Grey
    inside: Mask
    """True where the tele picture has something to show."""
    to_wide: Homography
    """Pixels of the overlap to pixels of the wide picture."""


def resized(picture: Grey, scale: float) -> tuple[Grey, Homography]:
    """A picture `scale` times as large, and the way from its pixels to the given ones."""
    height, width = picture.shape
    new_height, new_width = max(8, round(height * scale)), max(8, round(width * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.resize(picture, (new_width, new_height), interpolation=method)
    return small, resizing(height / new_height, width / new_width)


def cut_overlap(
    wide: Grey,
    tele: Grey,
    homography: Homography,
    max_pixels: int,
    max_scale: float,
    visible: Mask | None = None,
) -> Overlap:
    """The overlap with up to `max_pixels` pixels and `max_scale` times the wide picture's density.

    `homography` leads from tele pixels to wide pixels. `visible` is True where the tele picture
    shows the scene; None is everywhere.
    """
    height, width = wide.shape
    quad = transform(homography, corner_points(tele.shape))
    x0, y0 = np.clip(np.floor(quad.min(0)), 0, [width - 8, height - 8]).astype(int)
    x1, y1 = np.clip(np.ceil(quad.max(0)) + 1, [x0 + 8, y0 + 8], [width, height]).astype(int)
    part = wide[y0:y1, x0:x1]
    longest = max(part.shape)
    scale = min(max_scale, math.sqrt(max_pixels / part.size), MAX_SIDE_PX / longest)
    part, up = resized(part, scale)
    to_wide = np.array([[1, 0, x0], [0, 1, y0], [0, 0, 1.0]]) @ up
    warp = np.linalg.inv(to_wide) @ homography
    # Made no denser than the overlap first: a warp alone would alias.
    area = cv2.contourArea(transform(warp, corner_points(tele.shape)).astype(np.float32))
    small, tele_up = resized(tele, min(1.0, math.sqrt(area / tele.size)))
    warp, size = warp @ tele_up, part.shape[::-1]
    shows = np.ones_like(small)
    if visible is not None:
        size_small = small.shape[::-1]
        shows = cv2.resize(visible.astype(np.uint8), size_small, interpolation=cv2.INTER_NEAREST)
        shows = beyond_blur(shows)
    seen = cv2.warpPerspective(shows, warp, size, flags=cv2.INTER_NEAREST)
    shown = cv2.warpPerspective(
        small, warp, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return Overlap(part, shown, seen > 0, to_wide)


def beyond_blur(shows: UInt8[np.ndarray, "_ _"]) -> UInt8[np.ndarray, "_ _"]:
    """1 where a picture shows the scene and no hidden place's blur reaches."""
    around = np.ones((2 * HIDDEN_REACH_PX + 1, 2 * HIDDEN_REACH_PX + 1), np.uint8)
    return cv2.erode(shows, around, borderValue=1)


def detail_correlation(wide: Grey, tele: Grey, inside: Mask) -> float:
    """Normalised cross-correlation of the two pictures' detail, -1 to 1; 0 if there is none."""
    a, b = (_detail(picture)[inside] for picture in (wide, tele))
    energy = float((a * a).mean() * (b * b).mean()) if inside.any() else 0.0
    return float((a * b).mean()) / math.sqrt(energy) if energy > 0 else 0.0


def _detail(picture: Grey) -> Float32[np.ndarray, "_ _"]:
    fine, coarse = DETAIL_SIGMAS_PX
    smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), fine)
    return smooth - cv2.GaussianBlur(smooth, (0, 0), coarse)


def dense_flow(fixed: Grey, moving: Grey) -> Flow:
    """For each pixel of `fixed` the step to its twin in `moving`, by dense inverse search.

    No steps where the pictures are too small for it.
    """
    if max(fixed.shape) < MIN_FLOW_PX:
        return np.zeros((*fixed.shape, 2), np.float32)
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(0)
    # No first guess; zeros are one, and a worse start (0.3 dB of Ref on stereo pairs).
    no_guess: Any = None
    return search.calc(fixed, moving, no_guess)


def walk(picture: np.ndarray, flow: Flow, method: int = cv2.INTER_CUBIC) -> np.ndarray:
    """What a picture shows at the end of each step."""
    rows, cols = flow.shape[:2]
    x, y = np.meshgrid(np.arange(cols, dtype=np.float32), np.arange(rows, dtype=np.float32))
    at_x, at_y = x + flow[..., 0], y + flow[..., 1]
    return cv2.remap(picture, at_x, at_y, method, borderMode=cv2.BORDER_REPLICATE)


def remaining_homography(overlap: Overlap) -> Homography | None:
    """What leads from tele to wide in an overlap, in its pixels, by most of the flow.

    None where too little of the flow can be believed.
    """
    wide, tele = overlap.wide, overlap.tele
    there, back = dense_flow(wide, tele), dense_flow(tele, wide)
    missed = np.linalg.norm(there + walk(back, there, cv2.INTER_LINEAR), axis=2)
    margin = np.ones((2 * MARGIN_PX + 1, 2 * MARGIN_PX + 1), np.uint8)
    inner = cv2.erode(overlap.inside.astype(np.uint8), margin, borderValue=0) > 0
    good = inner & (missed < CONSISTENT_PX)
    if good.sum() < 100:
        return None
    texture = np.minimum(cv2.cornerMinEigenVal(wide, 7), cv2.cornerMinEigenVal(tele, 7))
    y, x = np.nonzero(good & (texture >= np.median(texture[good])))
    some = np.linspace(0, len(y) - 1, min(len(y), NUM_FIT_POINTS)).astype(int)
    fixed = np.stack([x, y], 1)[some].astype(np.float64)
    return fit_homography(fixed + there[y, x][some], fixed)


def fit_homography(source: Points, target: Points, num_rounds: int = 15) -> Homography:
    """Least squares on the points that agree: each round weighs by the last one's error."""
    size, middle = max(float(target.std()), 1e-9), target.mean(0)
    shrink = np.array([[1, 0, -middle[0]], [0, 1, -middle[1]], [0, 0, size]]) / size
    (x, y), (u, v) = transform(shrink, source).T, transform(shrink, target).T
    one, zero = np.ones_like(x), np.zeros_like(x)
    rows = np.stack(
        [
            np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], 1),
            np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], 1),
        ]
    )
    goal, weight, found = np.stack([u, v]), one, np.eye(3)
    for _ in range(num_rounds):
        root = np.sqrt(weight)
        left, right = (rows * root[:, None]).reshape(-1, 8), (goal * root).ravel()
        found = np.append(np.linalg.lstsq(left, right)[0], 1).reshape(3, 3)
        error = np.linalg.norm(rows @ found.ravel()[:8] - goal, axis=0)
        scale = max(1.5 * float(np.median(error)), 0.05 / size)
        weight = 1 / (1 + (error / scale) ** 2) ** 2
    return np.linalg.inv(shrink) @ found @ shrink
