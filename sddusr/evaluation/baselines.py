"""The simplest things that could do as well as a network: sharpening, and laying Ref over."""

import cv2
import numpy as np
from jaxtyping import Float32

from sddusr.config import DetailConfig
from sddusr.geometry.box import Box, crop
from sddusr.inference import bicubic
from sddusr.inference.conversion import Pixels
from sddusr.registration.residual import enlarged_center, register_ref

UNSHARP, PASTE = "unsharp", "registered paste"
"""What tables call them."""

UNSHARP_SIGMA_PX, UNSHARP_AMOUNT = 1.3, 0.95
"""The best single setting of a grid over training pictures (docs/results.md)."""


def unsharp(lr: Pixels) -> Float32[np.ndarray, "_ _ 3"]:
    """The bicubic picture and a share of what a blur takes away from it."""
    large = bicubic(lr)
    return large + UNSHARP_AMOUNT * (large - cv2.GaussianBlur(large, (0, 0), UNSHARP_SIGMA_PX))


def registered_paste(lr: Pixels, ref: Pixels, box: Box) -> Float32[np.ndarray, "_ _ 3"]:
    """The bicubic picture with the detail of Ref, registered and in LR's colours, laid on its box.

    Detail is what is left of Ref − bicubic when its mean over a window is taken off, the same
    window as the network's detail skip uses.
    """
    large = bicubic(lr)
    ref = register_ref(lr, ref, box).ref
    top = np.float32(np.iinfo(ref.dtype).max)
    added = ref / top - enlarged_center(lr, box) / top
    side = DetailConfig().window_px
    detail = added - cv2.blur(added, (side, side), borderType=cv2.BORDER_REPLICATE)
    crop(large, box)[...] += detail
    return large
