"""Re-assembly of Ref's maps from matched patches (Eq. 5), in NumPy."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Int

from sddusr.geometry.box import Box

CELL = 4
"""Pixels of the 2x grid along each side of a cell of the matching grid."""

OFFSETS = 0, 1, -1
"""From a cell to a query cell whose 9x9 patch reaches it; the last one's first row or column
alone does."""

STRIP = 2048
"""Cells that are summed at once."""


class CellBank:
    """Maps cut into cells, channels last, with a ring around them that repeats the border.

    Args:
        rows, cols: cells of the maps.
    """

    def __init__(self, rows: int, cols: int, dim: int) -> None:
        self.cells: Float32[np.ndarray, "rows+2 cols+2 4 4 c"] = np.zeros(
            (rows + 2, cols + 2, CELL, CELL, dim), np.float32
        )

    def put(self, piece: Float32[np.ndarray, "1 c h w"], y: int, x: int, first: int = 0) -> None:
        """Write maps whose first cell is (y, x).

        Args:
            first: channel.
        """
        cells = _to_cells(piece)
        rows, cols, dim = cells.shape[0], cells.shape[1], cells.shape[-1]
        self.cells[1 + y : 1 + y + rows, 1 + x : 1 + x + cols, :, :, first : first + dim] = cells

    def close(self) -> "CellBank":
        """Repeat the border in the ring, once everything is written."""
        cells = self.cells
        cells[0], cells[-1] = cells[1, :, :1], cells[-2, :, -1:]
        cells[:, 0], cells[:, -1] = cells[:, 1, :, :1], cells[:, -2, :, -1:]
        return self

    def part(self, cells: Box) -> Float32[np.ndarray, "1 c h w"]:
        """The maps of a rectangle of cells."""
        found = self.cells[1 + cells.y0 : 1 + cells.y1, 1 + cells.x0 : 1 + cells.x1]
        rows, cols = cells.height, cells.width
        maps = found.transpose(4, 0, 2, 1, 3)
        return maps.reshape(1, -1, CELL * rows, CELL * cols)


def transfer_patches(
    bank: CellBank,
    key_index: Int[np.ndarray, "rows cols"],
    weight: Float32[np.ndarray, "rows cols"],
) -> Float32[np.ndarray, "1 c 4*rows 4*cols"]:
    """fold(weight · unfold(source)[key_index]) / fold(ones), as the network's own does.

    Args:
        key_index: for each query cell, the flat index of a key cell.
        weight: 0 leaves a cell's patch out.
    """
    ring_rows, ring_cols, *_, dim = bank.cells.shape
    flat = bank.cells.reshape(ring_rows * ring_cols, CELL, CELL, dim)
    rows, cols = weight.shape
    key_y, key_x = (np.pad(key, 1) for key in np.divmod(key_index, ring_cols - 2))
    weight = np.pad(weight, 1)
    cover = _cover(rows)[:, None, :, None] * _cover(cols)[None, :, None, :]
    moved = np.empty((dim, rows, CELL, cols, CELL), np.float32)
    for start in range(0, rows, strip := max(1, STRIP // cols)):
        stop = min(start + strip, rows)
        total = np.zeros((stop - start, cols, CELL, CELL, dim), np.float32)
        for dy, dx in ((dy, dx) for dy in OFFSETS for dx in OFFSETS):
            here = slice(1 + dy + start, 1 + dy + stop), slice(1 + dx, 1 + dx + cols)
            cell = (key_y[here] + 1 - dy) * ring_cols + key_x[here] + 1 - dx
            y, x = (slice(0, 1 if step < 0 else CELL) for step in (dy, dx))
            share = weight[here][:, :, None, None, None]
            total[:, :, y, x] += share * flat[cell][:, :, y, x]
        total /= cover[start:stop, ..., None]
        moved[:, start:stop] = total.transpose(4, 0, 2, 1, 3)
    return moved.reshape(1, dim, CELL * rows, CELL * cols)


def _to_cells(piece: Float32[np.ndarray, "1 c h w"]) -> Float32[np.ndarray, "y x 4 4 c"]:
    _, dim, height, width = piece.shape
    cells = piece.reshape(dim, height // CELL, CELL, width // CELL, CELL)
    return cells.transpose(1, 3, 2, 4, 0)


def _cover(length: int) -> Float32[np.ndarray, "cells 4"]:
    """How many patches lie on each pixel of a line of cells."""
    inside = np.array([list(_is_inside(cell, length)) for cell in range(length)], np.float32)
    whole, first = inside[:, :2].sum(1), inside.sum(1)
    return np.stack([first, whole, whole, whole], axis=1)


def _is_inside(cell: int, length: int) -> Iterator[bool]:
    return (0 <= cell + offset < length for offset in OFFSETS)
