"""Tiles of a frame, and how far a convolution looks beyond them."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sddusr.config import SCALE
from sddusr.geometry.box import Box


def tiles(frame: Box, side: int, unit: int) -> Iterator[Box]:
    """Cut a frame into tiles of about equal size, at most `side` a side.

    Args:
        frame: its edges, like all edges that come of it, are multiples of `unit`.
        side: a multiple of `unit`.
    """
    for y0, y1 in _spans(frame.y0, frame.y1, side, unit):
        for x0, x1 in _spans(frame.x0, frame.x1, side, unit):
            yield Box(y0, y1, x0, x1)


def _spans(start: int, stop: int, side: int, unit: int) -> Iterator[tuple[int, int]]:
    number = -(-(stop - start) // side)
    edges = (start + round((stop - start) / unit * i / number) * unit for i in range(number + 1))
    return pairwise(edges)


def grown(box: Box, halo: int, frame: Box, unit: int = 1) -> Box:
    """The box with a halo on each side, rounded up to `unit`, cut at the frame."""
    halo = -(-halo // unit) * unit
    y0, x0 = max(box.y0 - halo, frame.y0), max(box.x0 - halo, frame.x0)
    return Box(y0, min(box.y1 + halo, frame.y1), x0, min(box.x1 + halo, frame.x1))


def snapped(box: Box, unit: int) -> Box:
    """The smallest rectangle around the box whose edges are multiples of `unit`."""
    y0, y1, x0, x1 = box
    return Box(y0 // unit * unit, -(-y1 // unit) * unit, x0 // unit * unit, -(-x1 // unit) * unit)


def overlap(first: Box, second: Box) -> Box | None:
    """The pixels that two rectangles share."""
    y0, x0 = max(first.y0, second.y0), max(first.x0, second.x0)
    y1, x1 = min(first.y1, second.y1), min(first.x1, second.x1)
    return Box(y0, y1, x0, x1) if y0 < y1 and x0 < x1 else None


def scaled(box: Box, factor: Fraction | int) -> Box:
    """The same rectangle on a grid `factor` times as fine; exact where its edges allow it."""
    return Box(*(int(edge * factor) for edge in box))


def within(inner: Box, outer: Box) -> Box:
    """`inner` in the pixels of `outer`."""
    y0, y1, x0, x1 = inner
    return Box(y0 - outer.y0, y1 - outer.y0, x0 - outer.x0, x1 - outer.x0)


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
