"""What no homography explains: a smooth flow, followed if held-out places prove it."""

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from sddusr.geometry.homography import Homography
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
SMOOTH_PX = 12.0
"""Sigma of the flow's smoothing, in pixels of the overlap. Dense inverse search errs by a pixel to
and fro along straight edges, which shows as teeth once detail is taken whole."""
OWN_PX = 4.0
"""Sigma of the mean that stands for a pixel's own step."""
LIKE_PX = 2.0
"""Steps that differ by more are hardly averaged: they belong to something at another depth."""
LEAST_LIKE = 1e-6
"""Weight of all others: where no step around resembles a pixel's own, their plain mean is left."""
MAX_LAYERS = 32
"""Where steps vary by more pixels than this, layers are wider."""
GRID_PX = 4
"""Pixels of the overlap per node of the grid that the smooth flow is computed on."""
COARSER = (1.0, 2.0, 4.0, 8.0)
"""Multiples of that sigma: what is not known near a pixel is taken from further away."""
FADE = 0.02
"""Weight of each coarser estimate over the finer one."""
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

    Dense inverse search is smoothed with weights: texture, and steps whose way back agrees. Half of
    the blocks predict the other half and the other way round; the flow is followed if that explains
    `min_gain` of the correlation of detail that the homography leaves missing.
    """
    fixed, inside = overlap.wide, overlap.inside
    moving = _match_contrast(overlap.tele, fixed, inside)
    there, back = dense_flow(fixed, moving), dense_flow(moving, fixed)
    missed = np.linalg.norm(there + walk(back, there, cv2.INTER_LINEAR), axis=2)
    weight = _texture(fixed) * (inside & (missed < 2 * CONSISTENT_PX))
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
        "share": float((weight[inside] > 0).mean()) if inside.any() else 0.0,
        "p95_px": float(np.quantile(length, 0.95)) * float(overlap.to_wide[0, 0]),
    }
    return Parallax(flow if record["followed"] else None, overlap.to_wide, record)


def smooth_flow(flow: Flow, weight: Float32[np.ndarray, "rows cols"]) -> Flow:
    """Weighted means of the steps around each pixel that resemble its own; where weights are small,
    of a wider neighbourhood.

    A bilateral filter, so that the step of what is near does not bend what lies behind it: flow is
    averaged in layers of like length along the axis in which it varies most, and each pixel
    interpolates between the two layers next to its own length (Durand and Dorsey 2002).
    """
    rows, cols = weight.shape
    size = -(-cols // GRID_PX), -(-rows // GRID_PX)
    steps = np.dstack([cv2.medianBlur(np.ascontiguousarray(flow[..., i]), 5) for i in (0, 1)])
    values = np.dstack([steps * weight[..., None], weight])
    values = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
    axis = _main_axis(_mean_steps(values), values[..., 2])
    length, own = _mean_steps(values) @ axis, _mean_steps(_blurred(values, OWN_PX)) @ axis
    least, most = float(own.min()), float(own.max())
    num_layers = 1 + min(MAX_LAYERS, math.ceil((most - least) / LIKE_PX))
    spacing = max((most - least) / max(num_layers - 1, 1), 1e-6)
    like_px = max(LIKE_PX, spacing)
    smooth = np.zeros((*own.shape, 2), np.float32)
    for index in range(num_layers):
        center = least + index * spacing
        alike = np.exp(-0.5 * np.square((length - center) / like_px)) + LEAST_LIKE
        share = np.clip(1 - np.abs(own - center) / spacing, 0, 1)
        layer = _mean_steps(_blurred(values * alike[..., None].astype(np.float32), SMOOTH_PX))
        smooth += share[..., None] * layer
    return cv2.resize(smooth, (cols, rows), interpolation=cv2.INTER_CUBIC)


def _blurred(
    values: Float32[np.ndarray, "rows cols 3"], sigma_px: float
) -> Float32[np.ndarray, "rows cols 3"]:
    """Sums over a neighbourhood, and with less weight over wider ones."""
    total, fade = np.zeros_like(values), 1.0
    for scale in COARSER:
        total += fade * cv2.GaussianBlur(values, (0, 0), scale * sigma_px / GRID_PX)
        fade *= FADE
    return total


def _mean_steps(values: Float32[np.ndarray, "rows cols 3"]) -> Flow:
    """Of sums of weighted steps and of weights."""
    return values[..., :2] / np.maximum(values[..., 2:], 1e-12)


def _main_axis(steps: Flow, weight: Float32[np.ndarray, "rows cols"]) -> Float32[np.ndarray, "2"]:
    """The direction in which weighted steps vary most."""
    total = max(float(weight.sum()), 1e-12)
    off = steps - (steps * weight[..., None]).sum((0, 1)) / total
    covariance = np.einsum("yxi,yxj,yx->ij", off, off, weight) / total
    return np.linalg.eigh(covariance)[1][:, -1].astype(np.float32)


def _texture(picture: Grey) -> Float32[np.ndarray, "rows cols"]:
    """Energy of the gradient, bounded: a flow is known where there is some."""
    dx, dy = (cv2.Sobel(picture, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    energy = cv2.GaussianBlur(dx * dx + dy * dy, (0, 0), 2.0)
    return energy / (energy + max(float(np.median(energy)), 1.0))


def _held_out_correlation(
    fixed: Grey,
    moving: Grey,
    flow: Flow,
    weight: Float32[np.ndarray, "rows cols"],
    inside: Bool[np.ndarray, "rows cols"],
) -> float:
    """Correlation of detail where each block follows what the blocks around it say."""
    rows, cols = weight.shape
    y, x = np.arange(rows) // BLOCK_PX, np.arange(cols) // BLOCK_PX
    odd = ((y[:, None] + x) % 2).astype(bool)
    predicted = np.where(
        odd[..., None], smooth_flow(flow, weight * ~odd), smooth_flow(flow, weight * odd)
    )
    return detail_correlation(fixed, walk(moving, predicted), inside)


def _match_contrast(picture: Grey, other: Grey, inside: Bool[np.ndarray, "rows cols"]) -> Grey:
    """A picture with the mean and contrast that another has where both show something."""
    if not inside.any():
        return picture
    seen, wanted = picture[inside].astype(np.float32), other[inside].astype(np.float32)
    gain = float(wanted.std()) / max(float(seen.std()), 1.0)
    shifted = (picture.astype(np.float32) - float(seen.mean())) * gain + float(wanted.mean())
    return np.clip(shifted, 0, 255).astype(np.uint8)
