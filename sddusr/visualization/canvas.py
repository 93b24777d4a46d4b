"""What sheets of several pictures are drawn with. uint8 RGB in, uint8 RGB out."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from sddusr.geometry.box import Box

ORANGE, RED, GREEN = (240, 130, 20), (210, 40, 40), (30, 150, 70)
"""The centre box, the crop inside it and the crop outside it, as in the paper's Figure 3."""


INK, PAPER, VOID = (30, 30, 30), (255, 255, 255), (225, 225, 225)


FONT = cv2.FONT_HERSHEY_SIMPLEX


LABEL_PX = 34


GAP_PX = 8


def heatmap(
    values: Float[np.ndarray, "h w"], low: float = 0.0, high: float = 1.0, zoom: int = 1
) -> UInt8[np.ndarray, "{zoom}*h {zoom}*w 3"]:
    """Values as colours, dark at `low` and bright at `high`; the range is fixed, so that pictures
    of one run compare. `zoom` repeats each value, 4 for a matching grid on HR pixels."""
    share = (np.clip(values, low, high) - low) / (high - low)
    gray = (share * 255).round().astype(np.uint8).repeat(zoom, axis=0).repeat(zoom, axis=1)
    return cv2.applyColorMap(gray, cv2.COLORMAP_VIRIDIS)[..., ::-1].copy()


def overlay_mask(
    picture: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "hq wq"] | Float[np.ndarray, "hq wq"],
    color: tuple[int, int, int] = (40, 60, 160),
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture as it is where the mask is 1, tinted where cells were left out of the search."""
    size = (picture.shape[1], picture.shape[0])
    kept = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)[..., None] > 0
    tinted = 0.35 * picture + 0.65 * np.array(color)
    return np.where(kept, picture, tinted.round().astype(np.uint8))


def caption(text: str, tile_px: int) -> UInt8[np.ndarray, "label tile 3"]:
    """A strip of text above a tile."""
    return _centered_text(np.full((LABEL_PX, tile_px, 3), PAPER, np.uint8), text)


def _centered_text(tile: UInt8[np.ndarray, "h w 3"], text: str) -> UInt8[np.ndarray, "h w 3"]:
    """Text in the middle, smaller where it would not fit."""
    room_px = tile.shape[1] - 2 * GAP_PX
    (width, _), _ = cv2.getTextSize(text, FONT, 0.65, 1)
    size = 0.65 * min(1.0, room_px / width)
    (width, height), _ = cv2.getTextSize(text, FONT, size, 1)
    start = ((tile.shape[1] - width) // 2, (tile.shape[0] + height) // 2)
    return cv2.putText(tile, text, start, FONT, size, INK, 1, cv2.LINE_AA)


BLUE: tuple[int, int, int] = (60, 170, 255)
"""The centre box, where `ORANGE` is the tele picture's own outline."""

NUM_SQUARES = 12
"""Squares of a checkerboard along its longer side."""

Drawing = UInt8[np.ndarray, "_ _ 3"]

Corners = Float[np.ndarray, "4 2"]
"""y, x in pixels; whole numbers are pixel centres."""

Outline = tuple[Corners, tuple[int, int, int]]
"""A closed line and its colour."""


class Panel(NamedTuple):
    title: str
    picture: Drawing


def row(panels: Sequence[Panel], tile_px: int, num_columns: int) -> Drawing:
    """Panels side by side, each centred in a tile below its title; missing ones stay empty."""
    height = LABEL_PX + max(panel.picture.shape[0] for panel in panels) + GAP_PX
    strip = np.full((height, num_columns * (tile_px + GAP_PX) + GAP_PX, 3), PAPER, np.uint8)
    for column, (title, picture) in enumerate(panels):
        left = GAP_PX + column * (tile_px + GAP_PX)
        strip[:LABEL_PX, left : left + tile_px] = caption(title, tile_px)
        inner = left + (tile_px - picture.shape[1]) // 2
        strip[LABEL_PX : LABEL_PX + picture.shape[0], inner : inner + picture.shape[1]] = picture
    return strip


def fit(picture: UInt8[np.ndarray, "h w 3"], tile_px: int) -> Drawing:
    """As large as fits into a square tile; enlarged pixels stay squares."""
    factor = tile_px / max(picture.shape[:2])
    height, width = (max(1, round(factor * side)) for side in picture.shape[:2])
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
    return cv2.resize(picture, (width, height), interpolation=interpolation)


def box_corners(box: Box) -> Corners:
    """The outer corners of a box."""
    y0, y1, x0, x1 = box
    return np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]]) - 0.5


def rescaled(corners: Corners, factor: float) -> Corners:
    """The same corners in a picture drawn `factor` times as large."""
    return (corners + 0.5) * factor - 0.5


def draw_outlines(
    picture: UInt8[np.ndarray, "h w 3"], outlines: Sequence[Outline]
) -> UInt8[np.ndarray, "h w 3"]:
    drawn, thickness = picture.copy(), max(2, round(max(picture.shape) / 400))
    for corners, color in outlines:
        points = np.ascontiguousarray(corners[:, ::-1]).round().astype(np.int32)
        cv2.polylines(drawn, [points], True, color, thickness, cv2.LINE_AA)
    return drawn


def checkerboard(
    first: UInt8[np.ndarray, "h w 3"],
    second: UInt8[np.ndarray, "h w 3"],
    valid: Bool[np.ndarray, "h w"],
    num_squares: int = NUM_SQUARES,
) -> UInt8[np.ndarray, "h w 3"]:
    """Squares of two pictures in turn; lines that break at their borders are misaligned.

    `first` shows where `second` is not valid, and in the top left square.
    """
    height, width = first.shape[:2]
    side = max(1, -(-max(height, width) // num_squares))
    rows, cols = np.ogrid[:height, :width]
    takes_second = ((rows // side + cols // side) % 2 == 1) & valid
    return np.where(takes_second[..., None], second, first)
