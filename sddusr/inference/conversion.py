"""Pictures as arrays of integers, as the network's tensors, and back."""

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from sddusr.imaging.arrays import Pixels, quantize
from sddusr.imaging.resize import bicubic_up


def to_tensor(picture: Pixels) -> Float[Tensor, "3 h w"]:
    """Channels first, in 0..1."""
    counts = np.ascontiguousarray(picture.transpose(2, 0, 1)).astype(np.float32)
    return torch.from_numpy(counts) / float(np.iinfo(picture.dtype).max)


def to_array(picture: Float[Tensor, "3 h w"]) -> Float32[np.ndarray, "h w 3"]:
    """Channels last, in the processor's memory."""
    return np.ascontiguousarray(picture.float().permute(1, 2, 0).cpu().numpy())


def to_8bit(picture: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """`quantize` to a byte, exactly as the protocol `png8` does."""
    return quantize(picture, np.uint8)


def bicubic(lr: Pixels) -> Float32[np.ndarray, "_ _ 3"]:
    """The picture enlarged without a network, the row that every table starts with; unclamped."""
    return to_array(bicubic_up(to_tensor(lr)[None])[0])
