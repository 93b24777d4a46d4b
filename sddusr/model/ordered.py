"""Sampling and padding whose gradients add up in a fixed order under torch's deterministic switch.

On a GPU, backward of `grid_sample` and of a reflecting pad add with atomics, in another order each
time. Where `torch.use_deterministic_algorithms` is on and a gradient is asked for, both are made of
gathers, whose backward that switch puts in order; their results differ by rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def sample_bilinear(
    x: Float[Tensor, "b c rows cols"],
    grid: Float[Tensor, "b h w 2"],
    *,
    padding_mode: Literal["zeros", "border"] = "zeros",
    align_corners: bool = False,
) -> Float[Tensor, "b c h w"]:
    """`F.grid_sample`, bilinear."""
    if not _must_be_ordered(x, grid):
        return F.grid_sample(x, grid, padding_mode=padding_mode, align_corners=align_corners)
    at_x, at_y = (
        _positions(at, length, padding_mode, align_corners)
        for at, length in zip(grid.unbind(-1), (x.shape[3], x.shape[2]), strict=True)
    )
    left, top = at_x.detach().floor(), at_y.detach().floor()
    right_share, bottom_share = at_x - left, at_y - top
    total = x.new_zeros(())
    for dy, of_row in enumerate((1 - bottom_share, bottom_share)):
        for dx, of_column in enumerate((1 - right_share, right_share)):
            weight = (of_row * of_column).unsqueeze(1)
            total = total + weight * _seen(x, top + dy, left + dx)
    return total


def _positions(
    at: Float[Tensor, "b h w"], length: int, padding_mode: str, align_corners: bool
) -> Float[Tensor, "b h w"]:
    """Pixels, from -1..1; what lies on the border or beyond it has no gradient."""
    pixels = (at + 1) / 2 * (length - 1) if align_corners else ((at + 1) * length - 1) / 2
    if padding_mode == "zeros":
        return pixels
    is_outside = (pixels <= 0) | (pixels >= length - 1)
    return torch.where(is_outside, pixels.detach().clamp(0, length - 1), pixels)


def _seen(
    x: Float[Tensor, "b c rows cols"], y: Float[Tensor, "b h w"], column: Float[Tensor, "b h w"]
) -> Float[Tensor, "b c h w"]:
    """The pixels at whole positions; zero outside."""
    rows, cols = x.shape[2:]
    inside: Bool[Tensor, "b h w"] = (y >= 0) & (y < rows) & (column >= 0) & (column < cols)
    index = y.clamp(0, rows - 1).long() * cols + column.clamp(0, cols - 1).long()
    pixels = x.flatten(2).gather(2, index.flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1))
    return pixels.unflatten(2, y.shape[1:]) * inside.unsqueeze(1)


def reflect_pad(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h+2 w+2"]:
    """One pixel more on each side, reflected."""
    if not _must_be_ordered(x):
        return F.pad(x, (1, 1, 1, 1), mode="reflect")
    x = torch.cat([x[:, :, 1:2], x, x[:, :, -2:-1]], dim=2)
    return torch.cat([x[..., 1:2], x, x[..., -2:-1]], dim=3)


def _must_be_ordered(*inputs: Tensor) -> bool:
    return (
        torch.are_deterministic_algorithms_enabled()
        and torch.is_grad_enabled()
        and any(x.requires_grad for x in inputs)
    )


@contextmanager
def ordered_gradients(enabled: bool) -> Iterator[None]:
    """Inside, gradients add up in the same order each time, on a GPU too."""
    if not enabled:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    fills = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # nothing reads memory before it is written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = fills
