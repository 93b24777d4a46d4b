"""Tiles of a frame, and how far a convolution looks beyond them."""

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sddusr.config import SCALE
from sddusr.geometry.box import Box
from sddusr.geometry.tiling import grown, overlap, scaled, snapped, tiles, within

__all__ = [
    "cut",
    "grown",
    "in_tiles",
    "lr_reach",
    "overlap",
    "reach",
    "scaled",
    "snapped",
    "tiles",
    "within",
]


def cut(x: Shaped[Tensor, "b c h w"], box: Box) -> Shaped[Tensor, "b c _ _"]:
    """A view of the rectangle."""
    return x[:, :, box.y0 : box.y1, box.x0 : box.x1]


def reach(*modules: nn.Module) -> int:
    """How many pixels a stack of convolutions looks beyond each of its own, on its input's grid.

    Where a window is cut at the frame, the convolutions pad it as they pad the frame; elsewhere
    a halo of this width keeps what they pad away from the core. So tiles equal the whole.
    """
    distance, pixel = Fraction(0), Fraction(1)
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                distance += pixel * (max(layer.kernel_size) // 2)
            elif isinstance(layer, nn.MaxPool2d):
                assert isinstance(layer.kernel_size, int)
                pixel *= layer.kernel_size
            elif isinstance(layer, nn.PixelShuffle):
                pixel /= layer.upscale_factor
    return math.ceil(distance)


def lr_reach(*layers: nn.Module) -> int:
    """LR pixels that layers of the 2x grid look beyond their own."""
    return math.ceil(reach(*layers) / SCALE)


def in_tiles(
    compute: Callable[[Box], Float[Tensor, "b c _ _"]],
    area: Box,
    side: int,
    halo: int,
    factor: Fraction = Fraction(1),
    frame: Box | None = None,
) -> Float[Tensor, "b c _ _"]:
    """Run a convolution stack over a rectangle, window by window, and put the cores together.

    Args:
        compute: from a window of the frame to the stack's output there.
        area: its edges and the frame's are multiples of 1 / `factor`.
        factor: pixels of the output per pixel of the frame.
        frame: where windows end; None: at the edges of `area`.
    """
    frame, unit = frame or area, factor.denominator
    whole = None
    for core in tiles(area, side, unit):
        window = grown(core, halo, frame, unit)
        piece = cut(compute(window), scaled(within(core, window), factor))
        if core == area:
            return piece
        place = scaled(within(core, area), factor)
        if whole is None:
            rows, cols = (int(length * factor) for length in (area.height, area.width))
            whole = _empty_like(piece, rows, cols)
        cut(whole, place).copy_(piece)
    assert whole is not None
    return whole


def _empty_like(piece: Float[Tensor, "b c _ _"], rows: int, cols: int) -> Tensor:
    """Room for more rows and columns; channels last where the piece has them so."""
    is_last = piece.stride(1) == 1
    return torch.empty(
        (*piece.shape[:2], rows, cols),
        dtype=piece.dtype,
        device=piece.device,
        memory_format=torch.channels_last if is_last else torch.contiguous_format,
    )
