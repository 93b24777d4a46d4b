"""Training windows: pieces of a picture small enough to be read for one crop."""

from collections.abc import Iterator

from sddusr.config import LR_PER_CELL, SCALE
from sddusr.geometry.box import Box, align_ref, crop, to_lr, whole
from sddusr.types import Triplet


def offsets(length_px: int, window_px: int, stride_px: int) -> list[int]:
    """Where windows start along one axis: every stride, the last one flush with the edge.

    All are even when stride and window are, because an odd last pixel is left out. An axis that
    is no longer than the window has one window.
    """
    last = max(length_px - length_px % LR_PER_CELL - window_px, 0)
    return [*range(0, last, stride_px), last]


def window_boxes(
    lr_shape: tuple[int, ...], window_px: int, stride_px: int, within: Box | None = None
) -> list[Box]:
    """Windows that cover a picture, in HR pixels, row by row.

    Args:
        lr_shape: height and width of the LR picture.
        window_px: side of a window in LR pixels, even.
        stride_px: LR pixels between two windows, even. With half a window, a crop of up to half a
            window lies whole in some window wherever it is, so no place is out of reach; it costs
            four times the space of windows side by side.
        within: the part to cover, in LR pixels, starting at even ones; None is all of it.
    """
    region = within or whole(*lr_shape[:2])
    height, width = (
        min(window_px, side - side % LR_PER_CELL) for side in (region.height, region.width)
    )
    return [
        Box(*(SCALE * edge for edge in (y, y + height, x, x + width)))
        for y in (region.y0 + start for start in offsets(region.height, window_px, stride_px))
        for x in (region.x0 + start for start in offsets(region.width, window_px, stride_px))
    ]


def cut_windows(
    triplet: Triplet, window_px: int, stride_px: int, margin_px: int | None = None
) -> Iterator[Triplet]:
    """Cut a training triplet into rows: a window of the picture, and one of what Ref shows.

    Where Ref covers the window, both are the same place. Elsewhere Ref's window is the nearest of
    that size inside the centre box, with the LR picture of that place (`lr_center`) beside it, so
    whatever crop and centre crop `crops.draw_span` finds for the whole picture can be drawn.

    Args:
        margin_px: how far around the centre box windows reach, in LR pixels, even. A crop further
            out has no centre crop within `margin_px`. None is all of the picture.
    """
    ref, center = align_ref(triplet.ref, triplet.center_box)
    within = _region(triplet.lr.shape, to_lr(center), margin_px)
    for window in window_boxes(triplet.lr.shape, window_px, stride_px, within):
        near = _nearest(window, center)
        cells = Box(*(edge // (SCALE * LR_PER_CELL) for edge in window))
        yield triplet._replace(
            id=f"{triplet.id}@{window.y0}x{window.x0}",
            lr=crop(triplet.lr, to_lr(window)),
            ref=crop(ref, _seen_from(near, center)),
            hr=crop(triplet.hr, window),
            detail=crop(triplet.detail, cells),
            center_box=_seen_from(near, window),
            provenance=triplet.provenance | {"window": list(window)},
            lr_center=None if near == window else crop(triplet.lr, to_lr(near)),
        )


def _region(lr_shape: tuple[int, ...], center: Box, margin_px: int | None) -> Box | None:
    """The centre box and the margin around it, in LR pixels."""
    if margin_px is None:
        return None
    return Box(
        max(center.y0 - margin_px, 0),
        min(center.y1 + margin_px, lr_shape[0]),
        max(center.x0 - margin_px, 0),
        min(center.x1 + margin_px, lr_shape[1]),
    )


def _nearest(window: Box, center: Box) -> Box:
    """The part of the centre, as large as the window where it can be, that lies nearest to it."""
    height, width = min(window.height, center.height), min(window.width, center.width)
    y0 = min(max(window.y0, center.y0), center.y1 - height)
    x0 = min(max(window.x0, center.x0), center.x1 - width)
    return Box(y0, y0 + height, x0, x0 + width)


def _seen_from(box: Box, origin: Box) -> Box:
    return Box(box.y0 - origin.y0, box.y1 - origin.y0, box.x0 - origin.x0, box.x1 - origin.x0)
