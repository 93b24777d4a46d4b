"""Places of two pictures that look alike: SIFT, matched both ways."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32

from sddusr.geometry.homography import Points
from sddusr.registration.overlap import Grey


class Matches(NamedTuple):
    """Places that look alike, in pixels of the two pictures."""

    tele: Points
    wide: Points


def features(picture: Grey, max_keypoints: int) -> tuple[Points, Float32[np.ndarray, "points 128"]]:
    """SIFT points; square roots of their descriptors, which sum to 1 (RootSIFT, CVPR 2012)."""
    sift = cv2.SIFT.create(
        nfeatures=max_keypoints, contrastThreshold=0.005, enable_precise_upscale=True
    )
    keypoints, descriptors = sift.detectAndCompute(picture, None)
    if descriptors is None:
        return np.empty((0, 2)), np.empty((0, 128), np.float32)
    points = np.array([keypoint.pt for keypoint in keypoints], np.float64)
    return points, np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-9))


def mutual_matches(
    a: Float32[np.ndarray, "num_a 128"], b: Float32[np.ndarray, "num_b 128"], max_ratio: float
) -> tuple[np.ndarray, np.ndarray]:
    """Indices into `a` and `b` of those nearest to each other, clearly nearer than the next."""
    if min(len(a), len(b)) < 2:
        return np.empty(0, int), np.empty(0, int)
    cosine = a @ b.T
    rows, nearest = np.arange(len(a)), cosine.argmax(1)
    mutual = cosine.argmax(0)[nearest] == rows
    first = cosine[rows, nearest]
    cosine[rows, nearest] = -1
    # Squared distances of unit vectors are 2 - 2 * cosine.
    clear = 1 - first < max_ratio**2 * (1 - cosine.max(1))
    return rows[mutual & clear], nearest[mutual & clear]
