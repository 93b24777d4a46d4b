"""Re-assembly of the Ref feature from matched patches (Eq. 5), and warping by a flow."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from sddusr.model.ordered import sample_bilinear
from sddusr.model.tuning import tuning

CELL = 4
"""Pixels of the 2x grid along each side of a cell of the matching grid."""

PATCH = 2 * CELL + 1
"""Side of the patches that are moved: 9 pixels, at stride 4, padded by 4."""


class CellBank(NamedTuple):
    """The feature that patches are taken from, cut into cells, channels last.

    A ring of cells around the picture replicates its border, since a patch reaches over it.
    """

    cells: Float[Tensor, "b rows+2 cols+2 4 4 c"]

    @classmethod
    def of(cls, source: Float[Tensor, "b c h w"]) -> "CellBank":
        """The bank of a feature on the key picture's 2x grid, four pixels a cell."""
        padded = F.pad(source, (CELL,) * 4, mode="replicate")
        cells = rearrange(padded, "b c (y p) (x r) -> b y x p r c", p=CELL, r=CELL)
        return cls(cells.contiguous())

    @classmethod
    def empty(cls, rows: int, cols: int, dim: int, like: Tensor) -> "CellBank":
        """A bank for one picture of so many cells, to be filled piece by piece and closed."""
        return cls(like.new_empty(1, rows + 2, cols + 2, CELL, CELL, dim))

    def put(self, piece: Float[Tensor, "1 c rows cols"], y: int, x: int) -> None:
        """Write a piece of the feature whose first cell is (y, x)."""
        cells = rearrange(piece, "b c (y p) (x r) -> b y x p r c", p=CELL, r=CELL)
        self.cells[:, 1 + y : 1 + y + cells.shape[1], 1 + x : 1 + x + cells.shape[2]] = cells

    def close(self) -> "CellBank":
        """Replicate the border into the ring, once everything is written."""
        cells = self.cells
        cells[:, 0] = cells[:, 1, :, :1]
        cells[:, -1] = cells[:, -2, :, -1:]
        cells[:, :, 0] = cells[:, :, 1, :, :1]
        cells[:, :, -1] = cells[:, :, -2, :, -1:]
        return self


def transfer_patches(
    source: Float[Tensor, "b c rows cols"] | CellBank,
    key_index: Int[Tensor, "b q"],
    weight: Float[Tensor, "b 1 hq wq"],
) -> Float[Tensor, "b c 4*hq 4*wq"]:
    """fold(weight · unfold(source)[key_index]) / fold(ones), without the 81·c wide unfold.

    A 9x9 patch at stride 4 lays a whole 4x4 cell on itself, on the cell before it and on the one
    between, and a single row or column on the cell behind; so each output cell is the sum of nine
    gathered cells or strips, one for each neighbour whose patch reaches it. Values are replicated
    at the border of `source`. Cells of weight 0 count as zero patches, not as absent ones.

    Args:
        source: aligned Ref feature on the key picture's 2x grid, four pixels a cell.
        key_index: for each query cell, the flat index of a key cell.
        weight: the query mask; 0 leaves a cell's patch out.
    """
    bank = (source if isinstance(source, CellBank) else CellBank.of(source)).cells
    num, dim, (rows, cols) = len(bank), bank.shape[-1], weight.shape[2:]
    where, weights = _reaching(key_index, weight, bank.shape[:3])
    cover = torch.einsum("yp,xr->yxpr", _cover(rows, weight), _cover(cols, weight))
    cover = cover.reshape(rows * cols, CELL, CELL, 1)
    moved = bank.new_empty(num, rows, CELL, cols, CELL, dim, dtype=weight.dtype)
    at_once = tuning(bank.device).transfer_cells
    for y in range(0, rows, strip := max(1, at_once // (num * cols))):
        here = slice(y * cols, min(y + strip, rows) * cols)
        total = _laid(bank, where[:, here].flatten(0, 1), weights[:, here].flatten(0, 1))
        total = total.unflatten(0, (num, -1)).to(weight.dtype) / cover[here]
        moved[:, y : y + strip] = rearrange(total, "b (y x) p r c -> b y p x r c", x=cols)
    return rearrange(moved, "b y p x r c -> b c (y p) (x r)")


WHOLE, EDGE = slice(0, 2), slice(2, 3)
"""Neighbours, at offsets `OFFSETS`, whose patches cover all of a cell along an axis, or only its
first row or column."""

OFFSETS = 0, 1, -1
"""From a cell to a query cell whose patch reaches it."""


def _reaching(
    key_index: Int[Tensor, "b q"], weight: Float[Tensor, "b 1 rows cols"], shape: torch.Size
) -> tuple[Int[Tensor, "b q 3 3"], Float[Tensor, "b q 3 3"]]:
    """For each cell and neighbour: the bank's cell that is laid there, and its weight."""
    num, ringed_rows, ringed_cols = shape
    rows, cols = weight.shape[2:]
    key_y, key_x, weight = (
        F.pad(grid, (1,) * 4)  # outside, weight 0
        for grid in (
            rearrange(key_index // (ringed_cols - 2), "b (y x) -> b y x", y=rows),
            rearrange(key_index % (ringed_cols - 2), "b (y x) -> b y x", y=rows),
            weight[:, 0],
        )
    )
    first = torch.arange(num, device=weight.device).view(-1, 1, 1) * (ringed_rows * ringed_cols)
    own = first + (key_y + 1) * ringed_cols + key_x + 1
    where, weights = [], []
    for dy in OFFSETS:
        for dx in OFFSETS:
            here = ..., slice(1 + dy, 1 + dy + rows), slice(1 + dx, 1 + dx + cols)
            where.append((own[here] - (dy * ringed_cols + dx)).flatten(1))
            weights.append(weight[here].flatten(1))
    where, weights = (torch.stack(part, -1).unflatten(-1, (3, 3)) for part in (where, weights))
    return where, weights


def _cover(length: int, like: Tensor) -> Float[Tensor, "cells 4"]:
    """How many patches lie on each pixel of a line of cells."""
    cell = torch.arange(length, device=like.device)
    # Its own patch and that of the cell behind cover all of it, that of the cell before its edge.
    whole = 1 + (cell < length - 1).to(like.dtype)
    first = whole + (cell > 0)
    return torch.stack([first, whole, whole, whole], dim=1)


def _laid(
    bank: Float[Tensor, "b rows cols 4 4 c"],
    where: Int[Tensor, "q 3 3"],
    weights: Float[Tensor, "q 3 3"],
) -> Float[Tensor, "q 4 4 c"]:
    """The sum of what all neighbours lay on each cell."""
    total = _weighted_sum(bank, where, weights, WHOLE, WHOLE)
    total[:, :1] += _weighted_sum(bank, where, weights, EDGE, WHOLE)
    total[:, :, :1] += _weighted_sum(bank, where, weights, WHOLE, EDGE)
    total[:, :1, :1] += _weighted_sum(bank, where, weights, EDGE, EDGE)
    return total


def _weighted_sum(
    bank: Float[Tensor, "b rows cols 4 4 c"],
    where: Int[Tensor, "q 3 3"],
    weights: Float[Tensor, "q 3 3"],
    y: slice,
    x: slice,
) -> Float[Tensor, "q _ _ c"]:
    """What some neighbours lay on each cell, or on its first row or column, added up."""
    dim = bank.shape[-1]
    height, width = (CELL if part is WHOLE else 1 for part in (y, x))
    # Of a cell, the stretches of memory that are read: all of it, its first row, or first pixels.
    length = CELL * CELL if height == width == CELL else width
    starts = torch.arange(0, height * CELL, CELL, device=bank.device)[: height * width // length]
    cells = where[:, y, x].flatten(1).unsqueeze(1) * (CELL * CELL) + starts.view(-1, 1)
    shares = weights[:, y, x].flatten(1).unsqueeze(1).expand_as(cells)
    summed = F.embedding_bag(
        (cells // length).flatten(0, 1),
        bank.reshape(-1, length * dim),
        per_sample_weights=shares.to(bank.dtype).flatten(0, 1),
        mode="sum",
    )
    return summed.view(-1, height, width, dim)


def windows_of_fold(
    folded: Float[Tensor, "b c rows cols"], dtype: torch.dtype
) -> Float[Tensor, "b hq wq 9 9*c"]:
    """The transpose of fold(·) / fold(ones): what each patch contributes to, zero outside. A view,
    values in the order y, x, channel."""
    ones = torch.ones_like(folded[:1, :1])
    grid = {"kernel_size": PATCH, "stride": CELL, "padding": CELL}
    cover = F.fold(F.unfold(ones, **grid), output_size=ones.shape[2:], **grid)
    return _windows(F.pad((folded / cover).to(dtype), (CELL,) * 4))


def windows_of_source(source: Float[Tensor, "b c rows cols"]) -> Float[Tensor, "b hk wk 9 9*c"]:
    """P^Ref of Eq. 5: 9x9 patches at stride 4, replicated at the border. A view, values in the
    order y, x, channel."""
    return _windows(F.pad(source, (CELL,) * 4, mode="replicate"))


def _windows(padded: Float[Tensor, "b c h w"]) -> Float[Tensor, "b rows cols 9 9*c"]:
    table = rearrange(padded, "b c h w -> b h w c").contiguous()
    num, height, width, dim = table.shape
    return table.as_strided(
        (num, height // CELL - 2, width // CELL - 2, PATCH, PATCH * dim),
        (height * width * dim, CELL * width * dim, CELL * dim, width * dim, 1),
    )


def warp_by_flow(
    picture: Float[Tensor, "b c rows cols"],
    flow: Float[Tensor, "b 2 h w"],
    corner: tuple[int, int] = (0, 0),
) -> Float[Tensor, "b c h w"]:
    """picture(y + flow_y, x + flow_x), bilinear, replicated at the border; flow is (x, y) in px.

    Args:
        corner: (y, x) of the part of the picture that the flow belongs to.
    """
    rows, cols = picture.shape[2:]
    y, x = (
        start + torch.arange(length, device=flow.device, dtype=flow.dtype)
        for start, length in zip(corner, flow.shape[2:], strict=True)
    )
    grid = torch.stack(
        [
            (x + flow[:, 0]) * (2 / max(cols - 1, 1)) - 1,
            (y.unsqueeze(1) + flow[:, 1]) * (2 / max(rows - 1, 1)) - 1,
        ],
        dim=-1,
    )
    groups = _warp_groups(picture)
    if groups == 1:
        return sample_bilinear(picture, grid, padding_mode="border", align_corners=True)
    warped = sample_bilinear(
        rearrange(picture, "b (g c) h w -> (b g) c h w", g=groups),
        repeat(grid, "b h w xy -> (b g) h w xy", g=groups),
        padding_mode="border",
        align_corners=True,
    )
    return rearrange(warped, "(b g) c h w -> b (g c) h w", g=groups)


def _warp_groups(picture: Float[Tensor, "b c rows cols"]) -> int:
    """Parts that the channels are warped in."""
    dim, at_once = picture.shape[1], tuning(picture.device).warp_channels
    return dim // at_once if at_once and dim % at_once == 0 else 1
