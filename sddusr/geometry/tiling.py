"""Boxes that a frame is cut into, and how boxes of different grids relate."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

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
