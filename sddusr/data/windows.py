"""Training windows: pieces of a picture small enough to be read for one crop."""

from collections.abc import Iterator

from sddusr.config import LR_PER_CELL, SCALE
from sddusr.data.geometry import crop, to_lr, whole
from sddusr.types import Box, Triplet


def offsets(length_px: int, window_px: int, stride_px: int) -> list[int]:
    """Where windows start along one axis: every stride, the last one flush with the edge.

    All are even when stride and window are, because an odd last pixel is left out. An axis that
    is no longer than the window has one window.
    """
    last = max(length_px - length_px % LR_PER_CELL - window_px, 0)
    return [*range(0, last, stride_px), last]


def window_boxes(lr_shape: tuple[int, ...], window_px: int, stride_px: int) -> list[Box]:
    """Windows that cover a picture, in HR pixels, row by row.

    Args:
        lr_shape: height and width of the LR picture.
        window_px: side of a window in LR pixels, even.
        stride_px: LR pixels between two windows, even. With half a window, a crop of up to half a
            window lies whole in some window wherever it is, so no place is out of reach; it costs
            four times the space of windows side by side.
    """
    sides = [min(window_px, side - side % LR_PER_CELL) for side in lr_shape[:2]]
    return [
        Box(*(SCALE * edge for edge in (y, y + sides[0], x, x + sides[1])))
        for y in offsets(lr_shape[0], window_px, stride_px)
        for x in offsets(lr_shape[1], window_px, stride_px)
    ]


def cut_windows(triplet: Triplet, window_px: int, stride_px: int) -> Iterator[Triplet]:
    """Cut a training triplet whose Ref covers the whole picture.

    Where Ref covers only a centre box, the triplet stays whole: the crop roams the picture and its
    centre stand-in roams the box, and no window has room for both.
    """
    if triplet.center_box != whole(*triplet.hr.shape[:2]):
        yield triplet
        return
    for box in window_boxes(triplet.lr.shape, window_px, stride_px):
        cells = Box(*(edge // (SCALE * LR_PER_CELL) for edge in box))
        yield triplet._replace(
            id=f"{triplet.id}@{box.y0}x{box.x0}",
            lr=crop(triplet.lr, to_lr(box)),
            ref=crop(triplet.ref, box),
            hr=crop(triplet.hr, box),
            detail=crop(triplet.detail, cells),
            center_box=whole(box.height, box.width),
            provenance=triplet.provenance | {"window": list(box)},
        )
