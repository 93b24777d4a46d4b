"""Windows that stand for a frame whose encoder would not fit in memory: what pools over the frame
is measured on them."""

from sddusr.config import LR_PER_CELL
from sddusr.geometry.box import Box

GRID = 8
"""Rows and columns of windows."""

SIDE = 64
"""LR pixels a side that each of them tells about."""

MARGIN = 16
"""LR pixels around them that are computed too: what was padded there fades within."""


def room() -> int:
    """LR pixels a side that a window takes with its margin."""
    return SIDE + 2 * MARGIN


def boxes(frame: Box) -> list[Box]:
    """Squares of `SIDE`, evenly spread and a margin off the frame's border, edges even."""
    starts_y, starts_x = (
        [round((length - room()) / LR_PER_CELL * i / (GRID - 1)) * LR_PER_CELL + MARGIN
         for i in range(GRID)]
        for length in (frame.height, frame.width)
    )  # fmt: skip
    return [Box(y, y + SIDE, x, x + SIDE) for y in starts_y for x in starts_x]
