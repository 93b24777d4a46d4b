"""Smooth a dense flow by what each pixel can know of it: a line only how far it moved across."""

import math

import cv2
import numpy as np
from jaxtyping import Float32

from sddusr.registration.overlap import Flow, Grey

StructureTensor = Float32[np.ndarray, "_ _ 3"]
"""Structure tensor of each pixel: xx, xy, yy."""

TEXTURE_PX = 2.0
"""Sigma of the mean that a structure tensor is."""
SMOOTH_PX = 12.0
"""Sigma of the flow's smoothing, in pixels. Dense inverse search errs by a pixel to and fro along
straight edges, which shows as teeth once detail is taken whole."""
OWN_PX = 3.0
"""Sigma of the mean that stands for a pixel's own step."""
LIKE_PX = 1.5
"""Steps that differ by more are hardly averaged: they belong to something at another depth."""
LEAST_LIKE = 1e-6
"""Weight of all others: where no step around resembles a pixel's own, the mean of all is left."""
MAX_LAYERS = 32
"""Where steps vary by more pixels than this, layers are wider."""
GRID_PX = 4
"""Pixels per node of the grid that the smooth flow is computed on."""
COARSER = (1, 2, 4, 8)
"""Multiples of a mean's sigma: what is not known near a pixel is taken from further away."""
FADE = 0.02
"""Weight of each coarser mean over the finer one."""
RIDGE = 1e-3
"""Weight of no step at all, of the texture's: what nothing shows is left as it is."""


def structure_tensor(picture: Grey) -> StructureTensor:
    """Mean products of a picture's gradient around each pixel (Förstner and Gülch 1987)."""
    dx, dy = (cv2.Sobel(picture, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    products = np.dstack([dx * dx, dx * dy, dy * dy])
    return cv2.GaussianBlur(products, (0, 0), TEXTURE_PX)


def bounded(tensor: StructureTensor) -> StructureTensor:
    """The tensor as a weight of up to 1: 1/2 where its trace is the picture's median."""
    trace = tensor[..., 0] + tensor[..., 2]
    return tensor / (trace + max(float(np.median(trace)), 1.0))[..., None]


def seen_length(
    steps: Float32[np.ndarray, "rows cols 2"], tensor: Float32[np.ndarray, "rows cols 3"]
) -> Float32[np.ndarray, "rows cols"]:
    """The length of steps as far as a picture shows it: along a line none is seen.

    Where all directions have the same texture it is the plain length, across a line sqrt(2) of it.
    """
    xx, xy, yy = np.moveaxis(tensor, 2, 0)
    x, y = np.moveaxis(steps, 2, 0)
    energy = xx * x * x + 2 * xy * x * y + yy * y * y
    return np.sqrt(np.maximum(2 * energy / np.maximum(xx + yy, 1e-12), 0))


def smooth_flow(flow: Flow, weight: Float32[np.ndarray, "rows cols 3"]) -> Flow:
    """For each pixel the mean step of what moves around it as it does itself.

    Along a line the flow is arbitrary: the mean is the least squares of differences weighted by
    structure tensors (the normal equations of Lucas and Kanade 1981), and where these are small,
    that of a wider neighbourhood. It is a bilateral filter, so that the step of what is near does
    not bend what lies behind it: the flow is averaged in layers of similar length along the axis in
    which it varies most, and each pixel interpolates between the two layers next to its own length
    (Durand and Dorsey 2002).

    `flow` is in pixels; `weight` is the `bounded` tensor of the picture that the steps start from,
    less where a step is doubted.
    """
    rows, cols = weight.shape[:2]
    size = -(-cols // GRID_PX), -(-rows // GRID_PX)
    steps = np.dstack([cv2.medianBlur(np.ascontiguousarray(flow[..., i]), 5) for i in (0, 1)])
    # What the normal equations sum up; apart, since OpenCV takes means of four channels at most.
    parts = weight, _weighted(steps, weight)
    terms = np.dstack([cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in parts])
    here, own = _best_steps(terms), _best_steps(_blurred(terms, OWN_PX))
    axis = _main_axis(own, terms[..., 0] + terms[..., 2])
    length = own @ axis
    least, most = float(length.min()), float(length.max())
    num_layers = 1 + min(MAX_LAYERS, math.ceil((most - least) / LIKE_PX))
    spacing = max((most - least) / max(num_layers - 1, 1), 1e-6)
    like_px = max(LIKE_PX, spacing)
    smooth = np.zeros_like(own)
    for index in range(num_layers):
        away = least + index * spacing - length
        differ = seen_length(here - own - away[..., None] * axis, terms[..., :3])
        likeness = np.exp(-0.5 * np.square(differ / like_px)) + LEAST_LIKE
        share = np.clip(1 - np.abs(away) / spacing, 0, 1)
        layer = _best_steps(_blurred(terms * likeness[..., None], SMOOTH_PX))
        smooth += share[..., None] * layer
    return cv2.resize(smooth, (cols, rows), interpolation=cv2.INTER_LINEAR)


def _weighted(
    steps: Float32[np.ndarray, "rows cols 2"], weight: Float32[np.ndarray, "rows cols 3"]
) -> Float32[np.ndarray, "rows cols 2"]:
    """Tensors times steps."""
    xx, xy, yy = np.moveaxis(weight, 2, 0)
    x, y = np.moveaxis(steps, 2, 0)
    return np.dstack([xx * x + xy * y, xy * x + yy * y])


def _blurred(
    terms: Float32[np.ndarray, "rows cols 5"], sigma_px: float
) -> Float32[np.ndarray, "rows cols 5"]:
    """Sums over a neighbourhood, and with less weight over wider ones."""
    total, fade = np.zeros_like(terms), 1.0
    for scale in COARSER:
        total += fade * cv2.GaussianBlur(terms, (0, 0), scale * sigma_px / GRID_PX)
        fade *= FADE
    return total


def _best_steps(sums: Float32[np.ndarray, "rows cols 5"]) -> Float32[np.ndarray, "rows cols 2"]:
    """Solutions of the normal equations; no step where nothing has weight."""
    trace = sums[..., 0] + sums[..., 2]
    xx, xy, yy, x, y = np.moveaxis(sums / np.maximum(trace, 1e-30)[..., None], 2, 0)
    xx, yy = xx + RIDGE, yy + RIDGE
    return np.dstack([yy * x - xy * y, xx * y - xy * x]) / (xx * yy - xy * xy)[..., None]


def _main_axis(
    steps: Float32[np.ndarray, "rows cols 2"], weight: Float32[np.ndarray, "rows cols"]
) -> Float32[np.ndarray, "2"]:
    """The direction in which weighted steps vary most."""
    total = max(float(weight.sum()), 1e-12)
    off = steps - (steps * weight[..., None]).sum((0, 1)) / total
    covariance = np.einsum("yxi,yxj,yx->ij", off, off, weight) / total
    return np.linalg.eigh(covariance)[1][:, -1].astype(np.float32)
