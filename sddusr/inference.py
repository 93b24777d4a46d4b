"""A wide and a tele picture in, a picture twice as large out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from sddusr.config import LR_PER_CELL, SCALE
from sddusr.data.geometry import align_ref, check_box, crop, to_lr
from sddusr.resize import bicubic_up
from sddusr.types import Box, Output

Precision = Literal["float32", "bfloat16"]


class Upscaled(NamedTuple):
    """A picture and how it came about."""

    sr: Float32[np.ndarray, "2*h 2*w 3"]
    """RGB around 0..1, as the network gives it: neither clamped nor rounded."""
    output: Output
    """Everything the network computed; its grids cover LR padded to even sides."""


def super_resolve(
    model: nn.Module,
    lr: UInt8[np.ndarray, "h w 3"],
    ref: UInt8[np.ndarray, "rows cols 3"],
    box: Box,
    precision: Precision = "float32",
) -> Upscaled:
    """Run the model on whole pictures of any size, on the device that holds its weights.

    The box is snapped to the matching grid and `ref` trimmed with it; odd sides of `lr` are
    padded by their last row or column, and what they add is cut from the result.

    Args:
        model: an `SDDuSR`.
        box: where `ref` lies in the result, HR pixels.
        precision: bfloat16 runs under autocast.

    Raises:
        ValueError: `box` leaves the result, or `ref` does not have its size.
    """
    height, width = lr.shape[:2]
    check_box(box, (SCALE * height, SCALE * width), "Ref")
    aligned = align_ref(ref, box)
    device = next(model.parameters()).device
    pictures = (lr, crop(lr, to_lr(aligned.box)), aligned.ref)
    wide, center, tele = (to_tensor(picture)[None].to(device) for picture in pictures)
    odd = (0, -width % LR_PER_CELL, 0, -height % LR_PER_CELL)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with _evaluating(model), torch.inference_mode(), autocast:
        output: Output = model(F.pad(wide, odd, mode="replicate"), center, tele)
    sr = output.sr[0, :, : SCALE * height, : SCALE * width]
    return Upscaled(to_array(sr), output)


def bicubic(lr: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "2*h 2*w 3"]:
    """The picture enlarged without a network, the row that every table starts with; unclamped."""
    return to_array(bicubic_up(to_tensor(lr)[None])[0])


def to_tensor(picture: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "3 h w"]:
    """Channels first, in 0..1."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255


def to_array(picture: Float[Tensor, "3 h w"]) -> Float32[np.ndarray, "h w 3"]:
    """Channels last, in the processor's memory."""
    return np.ascontiguousarray(picture.float().permute(1, 2, 0).cpu().numpy())


def to_8bit(picture: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture as saved: clamped to 0..1 and rounded, exactly as the protocol `png8` does."""
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
