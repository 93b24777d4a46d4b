"""Ref at its own place: inside the centre box a cell's best match is its own twin."""

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sddusr.imaging.resize import bicubic_up
from sddusr.model.matching.transfer import CELL

BICUBIC_PX = 4
"""Holds all pixels (three) at the border of an enlarged picture that hang on what lies beyond."""


def twin_cells(
    offset: Int[Tensor, "b 2"], query_shape: tuple[int, int], key_shape: tuple[int, int]
) -> tuple[Int[Tensor, "b q"], Bool[Tensor, "b 1 hq wq"]]:
    """The key cell at each query cell's own place, and whether there is one.

    Args:
        offset: (y, x) of the centre's first pixel on the query picture's 2x grid, multiples of a
            cell; the centre may reach beyond the picture.
    """
    y, x = (
        torch.arange(length, device=offset.device) - start.unsqueeze(1) // CELL
        for length, start in zip(query_shape, offset.unbind(1), strict=True)
    )
    rows, cols = key_shape
    inside = ((y >= 0) & (y < rows)).unsqueeze(2) & ((x >= 0) & (x < cols)).unsqueeze(1)
    index = y.clamp(0, rows - 1).unsqueeze(2) * cols + x.clamp(0, cols - 1).unsqueeze(1)
    return index.flatten(1), inside.unsqueeze(1)


def lay_in_place(
    moved: Float[Tensor, "b c height width"],
    own: Float[Tensor, "b c _ _"],
    index: Int[Tensor, "b q"],
    inside: Bool[Tensor, "b 1 hq wq"],
) -> Float[Tensor, "b c height width"]:
    """`own` where the picture shows the centre itself, `moved` elsewhere.

    Args:
        moved: on the picture's 2x grid, four pixels a cell.
        own: on the centre's.
        index, inside: from `twin_cells`.
    """
    rows, cols = inside.shape[2:]
    cells = rearrange(own, "b c (y p) (x r) -> b (y x) (p r c)", p=CELL, r=CELL)
    twins = cells.gather(1, index.unsqueeze(2).expand(-1, -1, cells.shape[2]))
    twins = rearrange(twins, "b (y x) (p r c) -> b c (y p) (x r)", y=rows, x=cols, p=CELL, r=CELL)
    return torch.where(to_pixels(inside), twins.to(moved.dtype), moved)


def enlarge_center(
    enlarged: Float[Tensor, "b 3 h w"],
    lr_center: Float[Tensor, "b 3 hc wc"],
    offset: Int[Tensor, "b 2"],
) -> Float[Tensor, "b 3 2*hc 2*wc"]:
    """The centre, enlarged as a part of the picture: at its border that looks beyond it.

    Args:
        enlarged: the whole picture, bicubic.
        offset: (y, x) of the centre's first pixel on the picture's 2x grid; where it reaches beyond
            the picture it is enlarged by itself.
    """
    alone = bicubic_up(lr_center)
    (rows, cols), (height, width) = alone.shape[2:], enlarged.shape[2:]
    y = offset[:, :1] + torch.arange(rows, device=offset.device)
    x = offset[:, 1:] + torch.arange(cols, device=offset.device)
    shared = ((y >= 0) & (y < height)).unsqueeze(2) & ((x >= 0) & (x < width)).unsqueeze(1)
    shared[:, BICUBIC_PX:-BICUBIC_PX, BICUBIC_PX:-BICUBIC_PX] = False  # either way the same
    index = y.clamp(0, height - 1).unsqueeze(2) * width + x.clamp(0, width - 1).unsqueeze(1)
    there = enlarged.flatten(2).gather(2, index.flatten(1).unsqueeze(1).expand(-1, 3, -1))
    return torch.where(shared.unsqueeze(1), there.view_as(alone), alone)


def to_pixels(cells: Tensor) -> Tensor:
    """A map of cells on the 2x grid."""
    return repeat(cells, "b c y x -> b c (y p) (x r)", p=CELL, r=CELL)
