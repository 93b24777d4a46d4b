"""What goes into exported graphs: names, shapes, and examples to trace and to compare with."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sddusr.model.evidence import NUM_EVIDENCE

Shape = tuple[int | str, ...]
"""Sides: numbers, or a multiple of a side that may have any size, such as `2*h`."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """A tensor that goes into a graph."""

    name: str
    shape: Shape
    dtype: torch.dtype = torch.float32


def split_side(side: str) -> tuple[int, str]:
    """`2*h` as (2, "h")."""
    factor, star, name = side.partition("*")
    return (int(factor), name) if star else (1, side)


def example(spec: Input, sides: dict[str, int], generator: torch.Generator) -> Tensor:
    """Smooth random values in 0..1, flows and corners in pixels, what doubt takes off below 0."""
    shape = [side if isinstance(side, int) else math.prod((split_side(side)[0],
             sides[split_side(side)[1]])) for side in spec.shape]  # fmt: skip
    if spec.dtype == torch.int64:
        return torch.full(shape, 3)
    values = torch.rand(shape, generator=generator)
    if spec.dtype == torch.bool:
        return values > 0.5
    if spec.name == "flow":
        return 4 * values - 2
    if spec.name == "evidence":
        values[:, :NUM_EVIDENCE] *= 0.02  # of a Ref that fits: one that is not trusted is not used
        return values
    if spec.name == "penalty":
        return -values
    if spec.name == "peak":
        return torch.full(shape, -1e30)
    return values


def show_nothing_on_the_left(ref: Tensor, enlarged: Tensor) -> None:
    """Ref is the enlarged centre there, exactly or but for rounding: it has nothing to show."""
    half = ref.shape[-1] // 2
    ref[..., :half] = enlarged[..., :half] + 1.6 / 255 * (ref[..., :half] - 0.5).abs()
    ref[..., : half // 2] = enlarged[..., : half // 2]
