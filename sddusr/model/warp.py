"""Re-assembly of the Ref feature from matched patches (Eq. 5), and warping by a flow."""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

CELL = 4
"""Pixels of the 2x grid along each side of a cell of the matching grid."""

PATCH = 2 * CELL + 1
"""Side of the patches that are moved: 9 pixels, at stride 4, padded by 4."""


def transfer_patches(
    source: Float[Tensor, "b c rows cols"],
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
    rows, cols = weight.shape[2:]
    cells, key_rows, key_cols = _padded_cells(source)
    key_y, key_x = _grid(key_index // key_cols, rows), _grid(key_index % key_cols, rows)
    first = torch.arange(len(source), device=source.device) * (key_rows + 2) * (key_cols + 2)
    inside = torch.ones_like(weight[:1])
    total = cells.new_zeros(len(source) * rows * cols, CELL, CELL, source.shape[1])
    cover = cells.new_zeros(rows * cols, CELL, CELL, 1)
    for dy, strip_y in _reach():
        for dx, strip_x in _reach():
            y, x, w, seen = (_neighbour(grid, dy, dx) for grid in (key_y, key_x, weight, inside))
            index = (y + 1 - dy) * (key_cols + 2) + (x + 1 - dx) + first.view(-1, 1, 1, 1)
            moved = cells[:, strip_y, strip_x].index_select(0, index.flatten())
            total[:, strip_y, strip_x] += w.reshape(-1, 1, 1, 1).to(moved.dtype) * moved
            cover[:, strip_y, strip_x] += seen.reshape(-1, 1, 1, 1).to(cover.dtype)
    total = total.unflatten(0, (len(source), -1)) / cover
    return rearrange(total, "b (y x) p r c -> b (y p) (x r) c", y=rows).permute(0, 3, 1, 2)


def _reach() -> tuple[tuple[int, slice], ...]:
    """(offset of the query cell whose patch reaches this one, the part that it covers)."""
    return (0, slice(None)), (1, slice(None)), (-1, slice(0, 1))


def _padded_cells(source: Float[Tensor, "b c h w"]) -> tuple[Tensor, int, int]:
    """Cells of the picture with a replicated ring around it, as (b·cells, 4, 4, c)."""
    padded = F.pad(source, (CELL,) * 4, mode="replicate")
    cells = rearrange(padded, "b c (y p) (x r) -> (b y x) p r c", p=CELL, r=CELL)
    return cells, source.shape[2] // CELL, source.shape[3] // CELL


def _grid(flat: Int[Tensor, "b q"], rows: int) -> Int[Tensor, "b 1 rows cols"]:
    return rearrange(flat, "b (y x) -> b 1 y x", y=rows)


def _neighbour(grid: Tensor, dy: int, dx: int) -> Tensor:
    """The value at (y + dy, x + dx) of each cell; 0 outside."""
    rows, cols = grid.shape[2:]
    ringed = F.pad(grid, (1, 1, 1, 1))
    return ringed[:, :, 1 + dy : 1 + dy + rows, 1 + dx : 1 + dx + cols]


def patches_of_fold(folded: Float[Tensor, "b c rows cols"]) -> Float[Tensor, "b 81*c q"]:
    """The transpose of fold(·) / fold(ones): what each patch contributes to, zero outside."""
    ones = torch.ones_like(folded[:1, :1])
    grid = {"kernel_size": PATCH, "stride": CELL, "padding": CELL}
    cover = F.fold(F.unfold(ones, **grid), output_size=ones.shape[2:], **grid)
    return F.unfold(folded / cover, **grid)


def patches_of_source(source: Float[Tensor, "b c rows cols"]) -> Float[Tensor, "b 81*c k"]:
    """P^Ref of Eq. 5: 9x9 patches at stride 4, replicated at the border."""
    padded = F.pad(source, (CELL,) * 4, mode="replicate")
    return F.unfold(padded, kernel_size=PATCH, stride=CELL)


def warp_by_flow(
    picture: Float[Tensor, "b c h w"], flow: Float[Tensor, "b 2 h w"]
) -> Float[Tensor, "b c h w"]:
    """picture(y + flow_y, x + flow_x), bilinear, replicated at the border; flow is (x, y) in px."""
    rows, cols = flow.shape[2:]
    y = torch.arange(rows, device=flow.device, dtype=flow.dtype)
    x = torch.arange(cols, device=flow.device, dtype=flow.dtype)
    grid = torch.stack(
        [
            (repeat(x, "w -> h w", h=rows) + flow[:, 0]) * (2 / max(cols - 1, 1)) - 1,
            (repeat(y, "h -> h w", w=cols) + flow[:, 1]) * (2 / max(rows - 1, 1)) - 1,
        ],
        dim=-1,
    )
    return F.grid_sample(picture, grid, padding_mode="border", align_corners=True)
