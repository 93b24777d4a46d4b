"""Pictures that explain a result: comparisons, confidence, masks. uint8 RGB in, uint8 RGB out."""

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from sddusr.config import SCALE
from sddusr.geometry.box import Box
from sddusr.visualization.canvas import (
    GAP_PX,
    GREEN,
    LABEL_PX,
    ORANGE,
    PAPER,
    RED,
    VOID,
    _centered_text,
    caption,
)


class Detail(NamedTuple):
    """A square of the HR picture worth a closer look."""

    box: Box
    color: tuple[int, int, int]


def comparison(
    lr: UInt8[np.ndarray, "h w 3"],
    ref: UInt8[np.ndarray, "hr wr 3"],
    box: Box,
    pictures: Mapping[str, UInt8[np.ndarray, "2*h 2*w 3"]],
    *,
    tile_px: int = 288,
    crop_px: int = 96,
) -> UInt8[np.ndarray, "height width 3"]:
    """LR, Ref and each of `pictures` side by side, with two enlarged crops below each.

    One crop lies in the centre box and one outside it, where the last of `pictures` (the truth,
    where there is one) has the most detail; Ref has nothing to show outside.

    Args:
        box: where `ref` lies in the HR pictures, HR pixels; drawn in orange.
        tile_px: width of a column.
        crop_px: side of a crop in HR pixels; smaller where the box is smaller.
    """
    truth = list(pictures.values())[-1]
    details = find_details(truth, box, crop_px)
    enlarged = lr.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    columns = [
        _column(label, picture, details, [Detail(box, ORANGE), *details], tile_px)
        for label, picture in {"LR (wide)": enlarged, **pictures}.items()
    ]
    overview_px = columns[0].shape[0] - (tile_px + GAP_PX) * len(details) - LABEL_PX
    columns.insert(1, _ref_column(ref, box, details, tile_px, overview_px))
    gap = np.full((columns[0].shape[0], GAP_PX, 3), PAPER, np.uint8)
    strip = np.hstack([part for column in columns for part in (gap, column)] + [gap])
    return cv2.copyMakeBorder(strip, 0, GAP_PX, 0, 0, cv2.BORDER_CONSTANT, value=PAPER)


def _column(
    label: str,
    picture: UInt8[np.ndarray, "h w 3"],
    crops: list[Detail],
    frames: list[Detail],
    tile_px: int,
) -> UInt8[np.ndarray, "height tile 3"]:
    overview_px = round(tile_px * picture.shape[0] / picture.shape[1])
    parts = [caption(label, tile_px), _overview(picture, frames, (overview_px, tile_px))]
    for crop in crops:
        parts += [_gap(tile_px), _enlarged(picture, crop, tile_px)]
    return np.vstack(parts)


def _ref_column(
    ref: UInt8[np.ndarray, "h w 3"],
    box: Box,
    details: list[Detail],
    tile_px: int,
    overview_px: int,
) -> UInt8[np.ndarray, "height tile 3"]:
    """Ref as large as it fits; of the details, those that it sees."""
    seen = [_moved(detail, box) for detail in details if _inside(detail.box, box)]
    fit = min(overview_px / ref.shape[0], tile_px / ref.shape[1])
    height, width = (max(1, round(fit * side)) for side in ref.shape[:2])
    overview = np.full((overview_px, tile_px, 3), VOID, np.uint8)
    top, left = (overview_px - height) // 2, (tile_px - width) // 2
    overview[top : top + height, left : left + width] = _overview(ref, seen, (height, width))
    parts = [caption("Ref (tele)", tile_px), overview]
    for detail in details:
        inside = _inside(detail.box, box)
        parts += [_gap(tile_px), _enlarged(ref, _moved(detail, box), tile_px) if inside
                  else _unseen(tile_px)]  # fmt: skip
    return np.vstack(parts)


def find_details(picture: UInt8[np.ndarray, "h w 3"], box: Box, crop_px: int) -> list[Detail]:
    """The square with the most detail inside the box, and the one outside if any fits there."""
    side = min(crop_px, box.height, box.width)
    sums = window_sums(fine_detail(picture), side)
    tops, lefts = np.ogrid[: sums.shape[0], : sums.shape[1]]
    inside = (tops >= box.y0) & (tops + side <= box.y1) & (lefts >= box.x0)
    inside = inside & (lefts + side <= box.x1)
    outside = (tops + side <= box.y0) | (tops >= box.y1) | (lefts + side <= box.x0)
    outside = outside | (lefts >= box.x1)
    details = []
    for allowed, color in ((inside, RED), (outside, GREEN)):
        if allowed.any():
            best = np.where(allowed, sums, -1).argmax()
            top, left = (int(index) for index in np.unravel_index(best, sums.shape))
            details.append(Detail(Box(top, top + side, left, left + side), color))
    return details


def fine_detail(picture: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """What halving the picture loses."""
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    size = (gray.shape[1], gray.shape[0])
    halved = cv2.resize(
        gray, (max(1, size[0] // 2), max(1, size[1] // 2)), interpolation=cv2.INTER_AREA
    )
    return np.abs(gray - cv2.resize(halved, size, interpolation=cv2.INTER_CUBIC))


def window_sums(values: Float[np.ndarray, "h w"], side: int) -> Float[np.ndarray, "h2 w2"]:
    """Sums over all squares of a side, by their top left corner."""
    total = cv2.integral(values, sdepth=cv2.CV_64F)
    return total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]


def _overview(
    picture: UInt8[np.ndarray, "h w 3"], frames: list[Detail], size: tuple[int, int]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    height, width = size
    shrinks = width < picture.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    small = cv2.resize(picture, (width, height), interpolation=interpolation)
    fit_y, fit_x = height / picture.shape[0], width / picture.shape[1]
    for box, color in frames:
        start = (round(box.x0 * fit_x), round(box.y0 * fit_y))
        end = (round(box.x1 * fit_x) - 1, round(box.y1 * fit_y) - 1)
        cv2.rectangle(small, start, end, color, thickness=2)
    return small


def _enlarged(
    picture: UInt8[np.ndarray, "h w 3"], detail: Detail, tile_px: int
) -> UInt8[np.ndarray, "tile tile 3"]:
    y0, y1, x0, x1 = detail.box
    tile = cv2.resize(picture[y0:y1, x0:x1], (tile_px, tile_px), interpolation=cv2.INTER_NEAREST)
    return cv2.rectangle(tile, (1, 1), (tile_px - 2, tile_px - 2), detail.color, thickness=3)


def _unseen(tile_px: int) -> UInt8[np.ndarray, "tile tile 3"]:
    tile = np.full((tile_px, tile_px, 3), VOID, np.uint8)
    return _centered_text(tile, "outside Ref's view")


def _gap(tile_px: int) -> UInt8[np.ndarray, "gap tile 3"]:
    return np.full((GAP_PX, tile_px, 3), PAPER, np.uint8)


def _inside(inner: Box, outer: Box) -> bool:
    return (
        outer.y0 <= inner.y0
        and inner.y1 <= outer.y1
        and outer.x0 <= inner.x0
        and inner.x1 <= outer.x1
    )


def _moved(detail: Detail, origin: Box) -> Detail:
    """The same detail in the pixels of a picture that starts at the origin's corner."""
    y0, y1, x0, x1 = detail.box
    return detail._replace(box=Box(y0 - origin.y0, y1 - origin.y0, x0 - origin.x0, x1 - origin.x0))
