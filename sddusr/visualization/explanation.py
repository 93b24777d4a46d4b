"""Why a result looks as it does: one sheet a pair. Drawings are uint8 RGB, numpy in, numpy out."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from sddusr.config import SCALE
from sddusr.geometry.box import Box, align_ref, crop, to_lr
from sddusr.inference.result import Matches
from sddusr.visualization.canvas import (
    BLUE,
    FONT,
    GAP_PX,
    INK,
    LABEL_PX,
    ORANGE,
    PAPER,
    Corners,
    Drawing,
    Outline,
    Panel,
    box_corners,
    checkerboard,
    draw_outlines,
    fit,
    heatmap,
    overlay_mask,
    rescaled,
    row,
)

NO_SEARCH = (110, 110, 110)

DROPPED = 0.25
"""Brightness of cells that were left out of the search, of their picture's."""

TEXT_PX = 48
"""Height of a line."""


class Evidence(NamedTuple):
    """What a sheet is drawn from."""

    wide: UInt8[np.ndarray, "h w 3"]
    ref: UInt8[np.ndarray, "rows cols 3"]
    """The tele picture as the network saw it: at HR density, in the wide picture's colours."""
    valid: Bool[np.ndarray, "rows cols"]
    box: Box
    """Where `ref` lies, HR pixels."""
    outline: Corners | None
    """The tele picture's corners in wide pixels; None where it was not registered."""
    matches: Matches
    lines: Sequence[str]
    """What was measured, as text."""
    trust: Float32[np.ndarray, "hq wq"] | None = None
    """The share of Ref's detail that was added to each cell; None without a detail skip."""


def sheet(evidence: Evidence, width_px: int = 2000) -> Drawing:
    """Panels in two columns: registration, sources, masks, confidence, trust and figures."""
    tile_px = (width_px - 3 * GAP_PX) // 2
    panels = list(_panels(evidence, tile_px))
    rows = [row(panels[at : at + 2], tile_px, 2) for at in range(0, len(panels), 2)]
    return np.vstack(rows)


def kept_share(mask: Bool[np.ndarray, "rows cols"] | None) -> float:
    """Share of cells that take part in the search; 1 where matching is dense."""
    return 1.0 if mask is None else float(mask.mean())


def position_colors(num_rows: int, num_cols: int) -> UInt8[np.ndarray, "{num_rows} {num_cols} 3"]:
    """A colour for each cell of a grid: hue by its direction from the middle, pale near it."""
    y = (np.arange(num_rows) + 0.5) / num_rows * 2 - 1
    x = (np.arange(num_cols) + 0.5) / num_cols * 2 - 1
    direction = np.arctan2(y[:, None], x[None, :]) / (2 * np.pi) % 1
    distance = np.hypot(y[:, None], x[None, :]).clip(0, 1)
    hsv = np.stack([direction * 180, distance * 255, np.full_like(distance, 255)], axis=-1)
    return cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)


def source_colors(
    key_index: Int[np.ndarray, "hq wq"], key_shape: tuple[int, int]
) -> UInt8[np.ndarray, "hq wq 3"]:
    """Each query cell in the colour that its key has in `position_colors` of the centre."""
    return position_colors(*key_shape).reshape(-1, 3)[key_index]


def tint(
    picture: UInt8[np.ndarray, "h w 3"],
    colors: UInt8[np.ndarray, "rows cols 3"],
    kept: Bool[np.ndarray, "rows cols"] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture's brightness in a grid's colours; grey and dark where a cell was not kept."""
    size = (picture.shape[1], picture.shape[0])
    shown = cv2.resize(colors, size, interpolation=cv2.INTER_NEAREST)
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None] / 255
    tinted = shown * (0.3 + 0.7 * gray)
    if kept is not None:
        part = cv2.resize(kept.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)[..., None]
        tinted = np.where(part > 0, tinted, 255 * (DROPPED * (0.3 + 0.7 * gray)))
    return tinted.round().astype(np.uint8)


def _panels(evidence: Evidence, tile_px: int) -> Iterator[Panel]:
    matches, wide = evidence.matches, fit(evidence.wide, tile_px)
    aligned = align_ref(evidence.ref, evidence.box)
    center = fit(crop(evidence.wide, to_lr(aligned.box)), tile_px)
    yield Panel("Tele picture (orange) and centre box (blue)", _outlined(evidence, wide))
    yield Panel("Inside the box: wide and tele in turn", _checkered(evidence, tile_px))
    sources = source_colors(matches.key_index, matches.key_shape)
    taken = draw_outlines(tint(wide, sources, matches.query_mask), [_box_outline(evidence, wide)])
    yield Panel("Where each cell was taken from (grey: from nowhere)", taken)
    yield Panel("Legend: the centre's places", tint(center, position_colors(*matches.key_shape)))
    yield _masked("Cells that search", wide, matches.query_mask)
    yield _masked("Cells that are searched, in the centre", center, matches.key_mask)
    yield Panel("Confidence of the match, 0 to 1 (grey: no search)", _confidence(matches, wide))
    if evidence.trust is not None:
        shown = _mapped(heatmap(evidence.trust), wide)
        yield Panel("Trust: the share of the tele picture's detail that was added, 0 to 1", shown)
    yield Panel("Measured", _text(evidence.lines, tile_px))


def _outlined(evidence: Evidence, small: Drawing) -> Drawing:
    outlines = [_box_outline(evidence, small)]
    if evidence.outline is not None:
        outlines.insert(0, (_on(small, evidence.outline, evidence), ORANGE))
    return draw_outlines(small, outlines)


def _box_outline(evidence: Evidence, small: Drawing) -> Outline:
    return _on(small, rescaled(box_corners(evidence.box), 1 / SCALE), evidence), BLUE


def _on(small: Drawing, corners: Corners, evidence: Evidence) -> Corners:
    """Corners in wide pixels, in the pixels of the wide picture's drawing."""
    return rescaled(corners, small.shape[0] / evidence.wide.shape[0])


def _checkered(evidence: Evidence, tile_px: int) -> Drawing:
    """At the tile's size: the wide picture enlarged, the tele picture mostly made smaller."""
    aligned = align_ref(evidence.ref, evidence.box)
    tele = fit(aligned.ref, tile_px)
    size = (tele.shape[1], tele.shape[0])
    center = crop(evidence.wide, to_lr(aligned.box))
    shrinks = center.shape[1] > size[0]
    wide = cv2.resize(center, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    y0, x0 = aligned.box.y0 - evidence.box.y0, aligned.box.x0 - evidence.box.x0
    valid = evidence.valid[y0 : y0 + aligned.box.height, x0 : x0 + aligned.box.width]
    shown = cv2.resize(valid.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    return checkerboard(wide, tele, shown)


def _masked(title: str, picture: Drawing, mask: Bool[np.ndarray, "h w"] | None) -> Panel:
    if mask is None:
        return Panel(f"{title}: all, matching is dense", picture)
    return Panel(f"{title}: {kept_share(mask):.0%}", overlay_mask(picture, mask))


def _confidence(matches: Matches, small: Drawing) -> Drawing:
    """As large as the wide picture's drawing, with the heat map's colours below it."""
    colors = heatmap(matches.confidence)
    if matches.query_mask is not None:
        colors[~matches.query_mask] = NO_SEARCH
    return _mapped(colors, small)


def _mapped(colors: Drawing, small: Drawing) -> Drawing:
    """A map's colours as large as a drawing, with the heat map's colours below it."""
    height, width = small.shape[:2]
    shrinks = width < colors.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    drawn = cv2.resize(colors, (width, height), interpolation=interpolation)
    ramp = heatmap(np.linspace(0, 1, width)[None].repeat(LABEL_PX - GAP_PX, axis=0))
    return np.vstack([drawn, np.full((GAP_PX, width, 3), PAPER, np.uint8), ramp])


def _text(lines: Sequence[str], tile_px: int) -> Drawing:
    """Lines from the top, all as small as the longest needs."""
    tile = np.full((len(lines) * TEXT_PX + GAP_PX, tile_px, 3), PAPER, np.uint8)
    widths = [cv2.getTextSize(line, FONT, 1, 1)[0][0] for line in lines]
    size = min(1.0, (tile_px - 2 * GAP_PX) / max(widths, default=1))
    for number, line in enumerate(lines, start=1):
        start = (GAP_PX, number * TEXT_PX - GAP_PX)
        cv2.putText(tile, line, start, FONT, size, INK, 1, cv2.LINE_AA)
    return tile
