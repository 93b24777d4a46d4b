"""What no homography explains: a dense flow where it shows more, the homography elsewhere."""

from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32

from sddusr.geometry.homography import Homography
from sddusr.registration.overlap import (
    Flow,
    Grey,
    cut_overlap,
    dense_flow,
    detail_correlation,
    walk,
)

MAX_PIXELS = 4_000_000
MAX_SCALE = 2.0
"""Of the overlap, over the wide picture's density."""
WINDOW_PX = 8.0
"""Sigma of the windows in which the two are compared, in pixels of the overlap."""
LESS_ERROR = 0.6
"""The flow is followed where it leaves less than this share of the homography's error, ..."""
LARGE_ERROR = 0.5
"""... or any less where that is larger than this: like places have 0, unlike ones 2."""
SEAM_PX = 2.0
"""Sigma of the seam between followed and not."""


class Parallax(NamedTuple):
    flow: Flow | None
    """In pixels of the overlap; None: the homography is all there is."""
    to_wide: Homography
    """Pixels of the overlap to pixels of the wide picture."""
    record: dict[str, Any]


def follow_parallax(wide: Grey, tele: Grey, homography: Homography, min_gain: float) -> Parallax:
    """The steps that the tele picture needs beyond `homography` to lie on the wide one.

    Where the flow does not explain much more than the homography, the step is zero; if it raises
    the correlation of detail by less than `min_gain` in all, there is no flow. Places that only one
    picture shows follow it too: steps that a check there and back let fall showed HR worse.
    """
    overlap = cut_overlap(wide, tele, homography, MAX_PIXELS, MAX_SCALE)
    fixed, moving, inside = overlap.wide, overlap.tele, overlap.inside
    flow = dense_flow(fixed, _like(moving, fixed))
    still, walked = _error(fixed, moving), _error(fixed, walk(moving, flow))
    followed = (walked < LESS_ERROR * still) | ((walked < still) & (still > LARGE_ERROR))
    share = followed.astype(np.float32)
    flow *= cv2.GaussianBlur(share, (0, 0), SEAM_PX)[..., None]
    before = detail_correlation(fixed, moving, inside)
    after = detail_correlation(fixed, walk(moving, flow), inside)
    length = np.linalg.norm(flow[inside], axis=1)
    record = {
        "ncc_before": before,
        "ncc_after": after,
        "followed": after - before >= min_gain,
        "share": float(share[inside].mean()),
        "p95_px": float(np.quantile(length, 0.95)) * float(overlap.to_wide[0, 0]),
    }
    return Parallax(flow if record["followed"] else None, overlap.to_wide, record)


def _like(picture: Grey, other: Grey) -> Grey:
    """A picture with another's mean and contrast."""
    gain = float(other.std()) / max(float(picture.std()), 1.0)
    shifted = (picture.astype(np.float32) - float(picture.mean())) * gain + float(other.mean())
    return np.clip(shifted, 0, 255).astype(np.uint8)


def _error(a: Grey, b: Grey) -> Float32[np.ndarray, "_ _"]:
    """Difference of two pictures around each pixel, whatever their brightness and contrast."""
    difference = (_normalised(a) - _normalised(b)) ** 2
    # The floor keeps flat places, where all is noise, with the homography.
    return cv2.GaussianBlur(difference, (0, 0), WINDOW_PX) + 0.01


def _normalised(picture: Grey) -> Float32[np.ndarray, "_ _"]:
    smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.7)
    apart = smooth - cv2.GaussianBlur(smooth, (0, 0), 2 * WINDOW_PX)
    return apart / np.sqrt(cv2.GaussianBlur(apart**2, (0, 0), 2 * WINDOW_PX) + 9)
