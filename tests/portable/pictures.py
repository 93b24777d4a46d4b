"""A scene for packages, and when two results of it agree."""

import math

import numpy as np

from sddusr.geometry.box import Box
from tests.conftest import textured

HR = textured(136, 156, seed=3)
LR = HR[::2, ::2].copy()
BOX = Box(37, 101, 42, 119)  # at no phase of the matching grid
REF = HR[BOX.y0 : BOX.y1, BOX.x0 : BOX.x1].copy()


def decibel(made: np.ndarray, wanted: np.ndarray) -> float:
    """Peak signal-to-noise ratio of pixels in 0..1."""
    return -10 * math.log10(max(float(np.square(made - wanted).mean()), 1e-12))


def check_agreement(made: np.ndarray, wanted: np.ndarray) -> None:
    """One level of 255 in 99.99 % of the pixels, and 60 dB."""
    assert (np.abs(made - wanted) <= 1 / 255).mean() >= 0.9999
    assert decibel(made, wanted) >= 60
