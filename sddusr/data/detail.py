"""How much detail each cell of the matching grid holds: the mask's teacher (section 3.4)."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8

from sddusr.geometry.box import HR_PER_CELL
from sddusr.imaging.resize import bicubic_down, bicubic_up

PERCENTS = np.arange(101)

_LEVELS = 2**16
"""Detail is rounded to 1 / 2^16, a 256th of an 8-bit step: float rounding is no detail, so flat
areas (a burnt-out sky) tie exactly and are labelled 0."""


def detail_map(hr: UInt8[np.ndarray, "rows cols 3"]) -> Float32[np.ndarray, "hq wq"]:
    """Σ_C |HR − HR↓↑|, averaged over each cell of the matching grid (4x4 HR pixels).

    HR counts from 0 to 1. It is halved and doubled with the project's bicubic, so what is left is
    what a lens of half the resolution cannot see. Rows and columns beyond the last whole cell are
    left out.

    Raises:
        ValueError: less than one cell.
    """
    height, width = (side // HR_PER_CELL * HR_PER_CELL for side in hr.shape[:2])
    if not (height and width):
        raise ValueError(f"HR is {hr.shape[0]}x{hr.shape[1]}, need {HR_PER_CELL} pixels or more")
    picture = torch.from_numpy(np.ascontiguousarray(hr[:height, :width].transpose(2, 0, 1)))
    picture = picture.float().div_(255)[None]
    lost = (picture - bicubic_up(bicubic_down(picture))).abs_().sum(1, keepdim=True)
    detail = F.avg_pool2d(lost, HR_PER_CELL)[0, 0]
    return detail.mul_(_LEVELS).round_().div_(_LEVELS).numpy()


def detail_quantiles(detail: Float32[np.ndarray, "hq wq"]) -> Float32[np.ndarray, "101"]:
    """Percentiles 0 to 100 of a detail map."""
    return np.quantile(detail, PERCENTS / 100).astype(np.float32)


def image_threshold(quantiles: Float32[np.ndarray, "101"], quantile: float) -> float:
    """Any quantile of the whole picture, between its percentiles by a straight line."""
    return float(np.interp(100 * quantile, PERCENTS, quantiles))


def mask_label(
    detail: Float32[np.ndarray, "hq wq"], threshold: float
) -> Float32[np.ndarray, "hq wq"]:
    """1 where detail exceeds the threshold, else 0; a tie is 0."""
    return (detail > threshold).astype(np.float32)
