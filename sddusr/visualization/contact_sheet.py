"""One sheet a pair: where the tele picture was found, how it fits, what its colours became."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from sddusr import storage
from sddusr.data.loading import Job, LoadedPair, load_pair
from sddusr.data.source_files import Source
from sddusr.geometry.box import Box, crop
from sddusr.geometry.homography import corner_points, transform
from sddusr.imaging.images import write_picture
from sddusr.registration.color_match import ColorMap
from sddusr.registration.pairing import PairConfig, PreparedPair
from sddusr.visualization.canvas import (
    BLUE,
    FONT,
    GAP_PX,
    GREEN,
    INK,
    ORANGE,
    PAPER,
    Drawing,
    Panel,
    box_corners,
    caption,
    checkerboard,
    draw_outlines,
    fit,
    rescaled,
    row,
)

TILE_PX = 620
"""Side of the square that a panel fits in."""

DETAIL_PX = 124
"""Side of the enlarged square, in HR pixels."""

NUM_COLUMNS = 3
WIDTH_PX = NUM_COLUMNS * (TILE_PX + GAP_PX) + GAP_PX

LINE_PX = 26
TEXT_SIZE = 0.6
LINE_CHARACTERS = 56


def write_contact_sheet(source: Source, job: Job, config: PairConfig, folder: str) -> str:
    """Register a pair and draw it to `folder`/ID.jpg; what was refused is drawn too.

    Returns:
        Why the pair is refused; empty if it is not.

    Raises:
        OSError: the sheet cannot be written.
    """
    why, pair = "", None
    try:
        pair = load_pair(source, job)
        prepared = pair.prepare(config)
    except (ValueError, FileNotFoundError) as error:
        why = str(error)
        sheet = refusal_sheet(source.id, pair, why)
    else:
        sheet = contact_sheet(pair, prepared)
    write_picture(storage.join(folder, f"{source.id}.jpg"), sheet, quality=90)
    return why


def contact_sheet(pair: LoadedPair, prepared: PreparedPair) -> Drawing:
    """Nine panels, the place, the colours and a detail of each, above what was measured."""
    center, ref = crop(pair.wide.pixels, prepared.box), prepared.ref
    at = _busiest(ref, DETAIL_PX)
    mixed = checkerboard(center, ref, prepared.valid)
    colors = {
        _with_size("Wide in the box", center): center,
        "Ref, tele's own colours": _before(prepared),
        "Ref, in wide's colours": ref,
    }
    wide_detail, ref_detail = crop(center, at), crop(ref, at)
    details = {
        "Detail: wide": wide_detail,
        "Detail: Ref": ref_detail,
        "Detail: in turn": checkerboard(wide_detail, ref_detail, crop(prepared.valid, at), 6),
    }
    rows = [
        [*_place(pair, prepared), Panel("Wide and Ref in turn, detail (green)", _mark(mixed, at))],
        [Panel(title, fit(picture, TILE_PX)) for title, picture in colors.items()],
        [Panel(title, fit(picture, TILE_PX)) for title, picture in details.items()],
    ]
    measured = {"box": list(prepared.box), "valid": float(prepared.valid.mean())}
    return _sheet(f"{pair.id}: registered", rows, [*record_lines(measured | prepared.record)])


def refusal_sheet(name: str, pair: LoadedPair | None, why: str) -> Drawing:
    """Both pictures, where they could be read, above the reason."""
    panels = []
    if pair is not None:
        pictures = {"Wide": pair.wide.pixels, "Tele": pair.tele.pixels}
        panels = [
            Panel(_with_size(title, each), fit(each, TILE_PX)) for title, each in pictures.items()
        ]
    return _sheet(f"{name}: refused", [panels], [why])


def record_lines(record: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A record of registration as text, a line for each value or row of a matrix."""
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from record_lines(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(row, list) for row in value):
            yield from (f"{prefix}{key}  {_values(row)}" for row in value)
        elif value is not None and value != "":
            yield f"{prefix}{key}  {_values(value if isinstance(value, list) else [value])}"


def _values(values: Sequence[Any]) -> str:
    return "  ".join(f"{each:.4g}" if isinstance(each, float) else str(each) for each in values)


def _place(pair: LoadedPair, prepared: PreparedPair) -> Iterator[Panel]:
    wide, tele = pair.wide.pixels, pair.tele.pixels
    small = fit(wide, TILE_PX)
    view = transform(np.array(prepared.record["homography"]), corner_points(tele.shape))[:, ::-1]
    factor = small.shape[0] / wide.shape[0]
    corners = {ORANGE: view, BLUE: box_corners(prepared.box)}
    outlines = [(rescaled(each, factor), color) for color, each in corners.items()]
    yield Panel("Wide, with tele's view (orange) and box (blue)", draw_outlines(small, outlines))
    yield Panel(_with_size("Tele as it was shot", tele), fit(tele, TILE_PX))


def _mark(picture: UInt8[np.ndarray, "rows cols 3"], at: Box) -> Drawing:
    small = fit(picture, TILE_PX)
    factor = small.shape[0] / picture.shape[0]
    return draw_outlines(small, [(rescaled(box_corners(at), factor), GREEN)])


def _before(prepared: PreparedPair) -> Drawing:
    color = prepared.record["color"]
    given = ColorMap(np.array(color["matrix"]), np.array(color["offset"]))
    return given.inverse().apply(prepared.ref)


def _busiest(picture: UInt8[np.ndarray, "rows cols 3"], side_px: int) -> Box:
    """The square, on a grid of half squares, with the strongest edges."""
    side = min(side_px, *picture.shape[:2])
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    total = cv2.integral(np.abs(cv2.Laplacian(gray, cv2.CV_32F)), sdepth=cv2.CV_64F)
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    step = max(1, side // 2)
    grid = sums[::step, ::step]
    y0, x0 = (int(index) * step for index in np.unravel_index(grid.argmax(), grid.shape))
    return Box(y0, y0 + side, x0, x0 + side)


def _with_size(title: str, picture: UInt8[np.ndarray, "rows cols 3"]) -> str:
    return f"{title}, {picture.shape[0]}x{picture.shape[1]}"


def _text(lines: Sequence[str]) -> Drawing:
    """Lines in columns as wide as a panel, or one long line across."""
    columns = NUM_COLUMNS if len(lines) > 1 else 1
    characters = LINE_CHARACTERS * NUM_COLUMNS // columns
    wrapped = [part for line in lines for part in textwrap.wrap(line, characters)]
    num_rows = -(-len(wrapped) // columns)
    tile = np.full((LINE_PX * (num_rows + 1), WIDTH_PX, 3), PAPER, np.uint8)
    for index, line in enumerate(wrapped):
        column, row = divmod(index, num_rows)
        start = (2 * GAP_PX + column * (TILE_PX + GAP_PX), LINE_PX * (row + 1))
        cv2.putText(tile, line, start, FONT, TEXT_SIZE, INK, 1, cv2.LINE_AA)
    return tile


def _sheet(title: str, rows: list[list[Panel]], lines: Sequence[str]) -> Drawing:
    strips = [row(panels, TILE_PX, NUM_COLUMNS) for panels in rows if panels]
    return np.vstack([caption(title, WIDTH_PX), *strips, _text(lines)])
