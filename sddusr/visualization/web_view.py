"""What a page shows of one picture: every method's version as layers on one grid, ready to embed.

A view is JSON with the pictures inside as data URIs, so that a page can be made of results alone.
"""

import base64
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from sddusr import storage
from sddusr.config import LR_PER_CELL, SCALE
from sddusr.geometry.box import Box, crop, snap_box, whole
from sddusr.inference import Matches
from sddusr.types import Triplet
from sddusr.visualization.canvas import GREEN, RED, heatmap
from sddusr.visualization.comparison import find_details

WHOLE_PX = 1200
"""Longest side of a whole picture in a page; larger ones are shrunk."""

DETAIL_PX = 384
"""Side of a detail, which is shown pixel for pixel."""

CROP_PX, MIN_CROP_PX = 128, 16
"""Sides of a crop of a picture that is shown whole: the largest, and the least outside the box."""

DETAILS = {RED: "detail in the centre", GREEN: "detail outside the centre"}

QUALITY = 90
"""Of WebP. At 90 the brightness of photographs is coded with 42 dB and more, far beyond what
methods differ by, and the colours are smoothed; that takes 1.6 bits a pixel."""

CELL_PX = SCALE * LR_PER_CELL
"""HR pixels of a cell of the matching grid."""

TINT = (40, 60, 160, 165)
"""RGBA of cells that were left out of the search."""

HEAT_ALPHA = 170

REF, TRUTH = "Ref (tele)", "HR (truth)"

MASK, KEY_MASK, CONFIDENCE = "left out of the search", "left out of the centre", "confidence"
TRUST = "trust in Ref's detail"
"""Overlays: cells that the masks dropped, how sure each match is, and what was taken from Ref."""


class Frame(NamedTuple):
    """A rectangle of a picture, at one scale."""

    name: str
    box: Box
    """HR pixels, edges on the matching grid."""
    scale: float
    """Pixels shown for each HR pixel."""


def build_web_view(
    triplet: Triplet,
    pictures: Mapping[str, UInt8[np.ndarray, "height width 3"]],
    matches: Matches | None,
    trust: Float[np.ndarray, "hq wq"] | None = None,
) -> dict[str, Any]:
    """Layers of a triplet's whole picture and, where that had to be shrunk, of two details.

    Args:
        pictures: method -> its picture; HR and Ref are added.
        matches: what overlays of masks and confidence are drawn from; None leaves them out.
        trust: share of Ref's detail in each cell, of a network with a detail skip.
    """
    layers = dict(pictures) | {REF: _on_canvas(triplet), TRUTH: triplet.hr}
    drawn = {} if matches is None else _overlays(triplet, matches)
    if trust is not None:
        drawn[TRUST] = _heat(trust, None)
    height, width = triplet.hr.shape[:2]
    frames = _frames(triplet)
    return {
        "id": triplet.id,
        "height": height,
        "width": width,
        "frames": [
            {
                "name": frame.name,
                "scale": frame.scale,
                "center": _share(triplet.center_box, frame.box),
                "layers": {name: _layer(picture, frame) for name, picture in layers.items()},
                "overlays": {
                    name: _data_uri(crop(each, _cells(frame.box)), "png", [])
                    for name, each in drawn.items()
                },
            }
            for frame in frames
        ],
        "crops": _crops(triplet, frames),
    }


def view_place(folder: str, id: str) -> str:
    """Where an evaluation keeps a picture's view."""
    return storage.member(storage.join(folder, "views"), f"{id}.json")


def picture_place(out: str, kind: str, id: str) -> str:
    """Where an evaluation keeps a picture of a kind, such as `pictures`."""
    return storage.member(storage.join(out, kind), f"{id}.png")


def forget_views(out: str, ids: Iterable[str]) -> None:
    """Remove an earlier evaluation's views of these pictures, which would be shown beside new
    scores where this one keeps none."""
    for id in ids:
        storage.remove(view_place(out, id))


def _frames(triplet: Triplet) -> list[Frame]:
    hr = triplet.hr
    scale = min(1.0, WHOLE_PX / max(hr.shape[:2]))
    frames = [Frame("whole picture", whole(*hr.shape[:2]), scale)]
    if scale < 1:
        for detail in find_details(hr, triplet.center_box, DETAIL_PX):
            frames.append(Frame(DETAILS[detail.color], snap_box(detail.box), 1.0))
    return frames


def _crops(triplet: Triplet, frames: list[Frame]) -> list[dict[str, Any]]:
    """The squares that a row of crops shows: of which frame, and which shares of it."""
    if len(frames) > 1:
        return [
            {"name": each.name, "frame": number, "share": [0.25, 0.25, 0.5, 0.5]}
            for number, each in enumerate(frames[1:], start=1)
        ]
    (height, width), box = triplet.hr.shape[:2], triplet.center_box
    outside = max(box.y0, height - box.y1, box.x0, width - box.x1)
    side = min(CROP_PX, max(1, min(height, width) // 3))
    side = min(side, outside) if outside >= MIN_CROP_PX else side
    return [
        {"name": DETAILS[detail.color], "frame": 0, "share": _share(detail.box, frames[0].box)}
        for detail in find_details(triplet.hr, box, side)
    ]


def _on_canvas(triplet: Triplet) -> UInt8[np.ndarray, "height width 3"]:
    """Ref where it lies in HR, grey around it."""
    canvas = np.full_like(triplet.hr, 128)
    crop(canvas, triplet.center_box)[:] = triplet.ref
    return canvas


def _share(box: Box, frame: Box) -> list[float]:
    """Top, left, height and width of the box, as shares of the frame; it may stick out."""
    return [
        (box.y0 - frame.y0) / frame.height,
        (box.x0 - frame.x0) / frame.width,
        box.height / frame.height,
        box.width / frame.width,
    ]


def _layer(picture: UInt8[np.ndarray, "height width 3"], frame: Frame) -> str:
    part = crop(picture, frame.box)
    if frame.scale < 1:
        size = tuple(max(1, round(side * frame.scale)) for side in part.shape[1::-1])
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    return _data_uri(part, "webp", [cv2.IMWRITE_WEBP_QUALITY, QUALITY])


def _cells(frame: Box) -> Box:
    return Box(*(-(-edge // CELL_PX) for edge in frame))


def _overlays(triplet: Triplet, matches: Matches) -> dict[str, UInt8[np.ndarray, "hq wq 4"]]:
    """A transparent pixel for each cell; the reader's browser enlarges them."""
    rows, cols = matches.confidence.shape
    drawn = {CONFIDENCE: _heat(matches.confidence, matches.query_mask)}
    if matches.query_mask is not None:
        drawn[MASK] = _tint(~matches.query_mask)
    if matches.key_mask is not None:
        dropped = np.zeros((rows, cols), bool)
        crop(dropped, Box(*(edge // CELL_PX for edge in snap_box(triplet.center_box))))[
            :
        ] = ~matches.key_mask
        drawn[KEY_MASK] = _tint(dropped)
    return drawn


def _tint(dropped: Bool[np.ndarray, "rows cols"]) -> UInt8[np.ndarray, "rows cols 4"]:
    return (dropped[..., None] * np.array(TINT)).astype(np.uint8)


def _heat(
    confidence: Float[np.ndarray, "rows cols"], mask: Bool[np.ndarray, "rows cols"] | None
) -> UInt8[np.ndarray, "rows cols 4"]:
    alpha = np.full(confidence.shape, HEAT_ALPHA, np.uint8)
    if mask is not None:
        alpha[~mask] = 0
    return np.dstack([heatmap(confidence), alpha])


def _data_uri(picture: UInt8[np.ndarray, "rows cols channels"], kind: str, flags: list[int]) -> str:
    channels = picture.shape[2]
    order = cv2.COLOR_RGBA2BGRA if channels == 4 else cv2.COLOR_RGB2BGR
    encoded = cv2.imencode(f".{kind}", cv2.cvtColor(picture, order), flags)[1]
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"
