"""How one picture came about (the paper's Figures 4 to 7), in pictures of one fixed part of it.

A run draws them at every validation, so that MLflow's slider over steps shows what was learned;
`python -m sddusr.visualization --checkpoint DIR PICTURES` draws the same of a finished network.
"""

import argparse
import logging
from collections.abc import Iterator, Mapping

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from sddusr import storage
from sddusr.checkpoint import load_model
from sddusr.config import LR_PER_CELL, SCALE
from sddusr.config.arguments import parse_args
from sddusr.data.dataset import ShardSet
from sddusr.geometry.box import Box, crop, snap_box
from sddusr.imaging.images import write_png
from sddusr.inference import Upscaled, bicubic, super_resolve, to_8bit
from sddusr.types import Triplet
from sddusr.visualization.canvas import (
    GREEN,
    ORANGE,
    VOID,
    Drawing,
    Panel,
    box_corners,
    draw_outlines,
    fit,
    heatmap,
    overlay_mask,
    rescaled,
    row,
)
from sddusr.visualization.comparison import fine_detail, window_sums
from sddusr.visualization.explanation import tint

log = logging.getLogger(__name__)

WINDOW_PX = 384
"""Side of the part that is drawn, HR pixels."""

CELL_PX = SCALE * LR_PER_CELL

LARGEST_ERROR = 0.2
"""Of the error map's colours, mean over the channels; pictures are 0 to 1."""

TITLES = {
    "lr": "LR (wide)",
    "ref": "Ref (tele)",
    "bicubic": "bicubic",
    "sr": "SR",
    "hr": "HR (truth)",
    "error": f"error of SR, 0 to {LARGEST_ERROR}",
    "mask": "cells that search",
    "key_mask": "cells that are searched",
    "confidence": "confidence, 0 to 1",
    "trust": "share of Ref's detail, 0 to 1",
    "warped": "warped feature",
    "dictionary": "dictionary feature",
    "tokens": "tokens' regions",
}
"""Name of each picture -> what a sheet calls it."""

TILE_PX = 288
NUM_COLUMNS = 7


def fixed_window(triplet: Triplet, side_px: int = WINDOW_PX) -> Box:
    """The part of a picture that is drawn: HR pixels, on the matching grid.

    Of the squares that show both some of what the tele lens saw and some of what it did not, the
    one with the most detail; a function of the triplet alone.
    """
    height, width = (side // CELL_PX for side in triplet.hr.shape[:2])
    side = min(side_px // CELL_PX, height, width)
    inside = np.zeros((height, width), np.float32)
    crop(inside, Box(*(edge // CELL_PX for edge in snap_box(triplet.center_box))))[:] = 1
    seen = window_sums(inside, side) / side**2
    by_cell = fine_detail(triplet.hr)[: height * CELL_PX, : width * CELL_PX]
    by_cell = cv2.resize(by_cell, (width, height), interpolation=cv2.INTER_AREA)
    mixed = np.minimum(seen, 1 - seen)
    allowed = mixed >= min(0.25, mixed.max())
    best = np.where(allowed, window_sums(by_cell, side), -1).argmax()
    top, left = (CELL_PX * int(index) for index in np.unravel_index(best, seen.shape))
    return Box(top, top + CELL_PX * side, left, left + CELL_PX * side)


def render_diagnostics(triplet: Triplet, made: Upscaled, window: Box) -> dict[str, Drawing]:
    """The pictures of `TITLES`, all of the window at HR density, and `sheet` with all of them.

    What a network does not have, such as masks where matching is dense, is left out.

    Args:
        made: of `super_resolve` with `look_at=window`, as floats.
        window: from `fixed_window`.
    """
    sr = to_8bit(made.sr)
    error = np.abs(made.sr.clip(0, 1) - triplet.hr / np.float32(255)).mean(axis=2)
    pictures = {
        "lr": triplet.lr.repeat(SCALE, axis=0).repeat(SCALE, axis=1),
        "ref": _ref_in_place(triplet),
        "bicubic": to_8bit(bicubic(triplet.lr)),
        "sr": sr,
        "hr": triplet.hr,
        "error": heatmap(error.astype(np.float32), high=LARGEST_ERROR),
    }
    images = {name: np.ascontiguousarray(crop(each, window)) for name, each in pictures.items()}
    images |= dict(_search(made, images["sr"], window)) | dict(_sources(made, images["sr"]))
    return images | {"sheet": _sheet(triplet, images, window)}


def _ref_in_place(triplet: Triplet) -> Drawing:
    """Ref where it lies in HR, grey where the tele lens saw nothing."""
    canvas = np.full_like(triplet.hr, VOID)
    crop(canvas, triplet.center_box)[:] = triplet.ref
    return canvas


def _search(made: Upscaled, shown: Drawing, window: Box) -> Iterator[tuple[str, Drawing]]:
    """Masks (Figures 4 and 5), confidence and trust of the window's cells."""
    matches = made.matches
    cells = Box(*(edge // CELL_PX for edge in window))
    if matches.query_mask is not None:
        yield "mask", overlay_mask(shown, crop(matches.query_mask, cells))
    if matches.key_mask is not None:
        searched = np.zeros(matches.confidence.shape, bool)
        crop(searched, Box(*(edge // CELL_PX for edge in made.box)))[:] = matches.key_mask
        yield "key_mask", overlay_mask(shown, crop(searched, cells))
    yield "confidence", heatmap(crop(matches.confidence, cells), zoom=CELL_PX)
    if made.trust is not None:
        yield "trust", heatmap(crop(made.trust, cells), zoom=CELL_PX)


def _sources(made: Upscaled, shown: Drawing) -> Iterator[tuple[str, Drawing]]:
    """Features (Figure 6) and tokens (Figure 7)."""
    if made.sources is None:
        return
    yield "warped", _contrast(made.sources.warped_feat)
    if made.sources.dict_feat is not None:
        yield "dictionary", _contrast(made.sources.dict_feat)
    if made.sources.token_index is not None:
        yield "tokens", tint(shown, token_colors(made.sources.token_index))


def _contrast(values: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Features have no scale of their own: the colours span the middle 98 % of the values."""
    low, high = np.quantile(values, (0.01, 0.99))
    return heatmap(values, float(low), float(high) if high > low else float(low) + 1)


def token_colors(index: Int[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """A colour for each token, always the same; neighbours in the dictionary differ most."""
    golden_turn = 0.618034
    hue = (index * golden_turn % 1 * 180).astype(np.uint8)
    value = np.where(index % 2, 255, 190).astype(np.uint8)
    return cv2.cvtColor(np.dstack([hue, np.full_like(hue, 190), value]), cv2.COLOR_HSV2RGB)


def _sheet(triplet: Triplet, images: Mapping[str, Drawing], window: Box) -> Drawing:
    """All pictures with their names, after the whole picture with its centre box and window."""
    whole = fit(triplet.hr, TILE_PX)
    factor = whole.shape[0] / triplet.hr.shape[0]
    marked = {ORANGE: triplet.center_box, GREEN: window}
    outlines = [(rescaled(box_corners(box), factor), color) for color, box in marked.items()]
    panels = [Panel("centre (orange), part", draw_outlines(whole, outlines))]
    panels += [Panel(TITLES[name], fit(picture, TILE_PX)) for name, picture in images.items()]
    rows = range(0, len(panels), NUM_COLUMNS)
    return np.vstack([row(panels[at : at + NUM_COLUMNS], TILE_PX, NUM_COLUMNS) for at in rows])


def main() -> None:
    """The command line of `python -m sddusr.visualization`."""
    parser = argparse.ArgumentParser(
        prog="python -m sddusr.visualization",
        description="Draw how a network makes its pictures: masks, confidence, features, tokens.",
    )
    parser.add_argument("pictures", metavar="PICTURES", help="shards of pipelines/preprocess.py")
    parser.add_argument("--checkpoint", required=True, help="a run's folder, or one checkpoint")
    parser.add_argument("--split", default="test", help="which pictures (default: test)")
    parser.add_argument("--id", nargs="+", help="only these (default: all of the split)")
    side_help = f"side of the drawn part in HR pixels (default: {WINDOW_PX})"
    parser.add_argument("--window-px", type=int, default=WINDOW_PX, help=side_help)
    parser.add_argument("--out", default="figures", help="folder or URI (default: figures)")
    args = parse_args(parser)
    try:
        for place in draw(args.checkpoint, args.pictures, args.split, args.id, args.window_px,
                          args.out):  # fmt: skip
            print(place)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def draw(
    checkpoint: str, pictures: str, split: str, ids: list[str] | None, window_px: int, out: str
) -> Iterator[str]:
    """Draw the pictures of a split to `out`/ID/NAME.png; the place of each sheet.

    Raises:
        FileNotFoundError: no checkpoint, or no shards.
        ValueError: no such picture, or a part too small to draw.
    """
    if window_px < CELL_PX:
        raise ValueError(f"--window-px is {window_px}, need {CELL_PX} or more")
    shards = ShardSet(pictures)
    rows = [each for each in shards.rows(split) if ids is None or each.id in ids]
    if not rows or (ids and len(rows) < len(set(ids))):
        known = ", ".join(each.id for each in shards.rows(split)[:8])
        raise ValueError(f"{pictures}: split {split!r} holds {known or 'no pictures'}; ask for one")
    model = load_model(checkpoint)
    for each in rows:
        triplet = shards.read(each)
        window = fixed_window(triplet, window_px)
        made = super_resolve(model, triplet.lr, triplet.ref, triplet.center_box, look_at=window)
        for name, picture in render_diagnostics(triplet, made, window).items():
            write_png(storage.member(storage.join(out, triplet.id), f"{name}.png"), picture)
        yield storage.join(out, triplet.id, "sheet.png")
