"""A triplet as a row of Parquet, and back: raw bytes beside their shapes, no picture codec."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from sddusr.config import LR_PER_CELL, SCALE
from sddusr.geometry.box import HR_PER_CELL, Box, check_box, snap_box, to_lr
from sddusr.types import Triplet

_PICTURES = ("lr", "lr_center", "ref", "hr")

_NONE = np.empty((0, 0, 3), np.uint8)
"""Stands for an `lr_center` that is None."""

SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in [
            ("id", pa.string()),
            ("scene", pa.string()),
            ("split", pa.string()),
            ("lr", pa.binary()),
            ("lr_shape", pa.list_(pa.int32(), 2)),
            ("lr_center", pa.binary()),
            ("lr_center_shape", pa.list_(pa.int32(), 2)),
            ("ref", pa.binary()),
            ("ref_shape", pa.list_(pa.int32(), 2)),
            ("hr", pa.binary()),
            ("hr_shape", pa.list_(pa.int32(), 2)),
            ("detail", pa.binary()),
            ("detail_shape", pa.list_(pa.int32(), 2)),
            ("detail_quantiles", pa.binary()),
            ("center_box", pa.list_(pa.int32(), 4)),
            ("scale", pa.int32()),
            ("provenance", pa.string()),
        ]
    ]
)
"""Pictures are uint8 RGB, rows first; detail and its quantiles are little-endian float32. An
`lr_center` of no pixels is None."""


def to_record(triplet: Triplet) -> dict[str, Any]:
    """One row of `SCHEMA`.

    Raises:
        ValueError: sizes that do not belong together.
    """
    check_sizes(triplet)
    record: dict[str, Any] = {
        "id": triplet.id,
        "scene": triplet.scene,
        "split": triplet.split,
        "detail": triplet.detail.astype("<f4").tobytes(),
        "detail_shape": list(triplet.detail.shape),
        "detail_quantiles": triplet.detail_quantiles.astype("<f4").tobytes(),
        "center_box": list(triplet.center_box),
        "scale": SCALE,
        "provenance": json.dumps(triplet.provenance, sort_keys=True),
    }
    for name in _PICTURES:
        picture = _NONE if getattr(triplet, name) is None else getattr(triplet, name)
        record[name] = picture.tobytes()
        record[f"{name}_shape"] = list(picture.shape[:2])
    return record


def from_record(record: Mapping[str, Any]) -> Triplet:
    """Undo `to_record`; the arrays are read-only views of the record's buffers.

    Raises:
        ValueError: bytes and shapes that do not fit, or another scale.
    """
    if record["scale"] != SCALE:
        raise ValueError(f"scale is {record['scale']}, need {SCALE}")
    pictures = {
        name: np.frombuffer(record[name], np.uint8).reshape(*record[f"{name}_shape"], 3)
        for name in _PICTURES
    }
    lr_center = pictures.pop("lr_center")
    triplet = Triplet(
        id=record["id"],
        scene=record["scene"],
        split=record["split"],
        detail=_floats(record["detail"]).reshape(record["detail_shape"]),
        detail_quantiles=_floats(record["detail_quantiles"]),
        center_box=Box(*record["center_box"]),
        provenance=json.loads(record["provenance"]),
        lr_center=lr_center if lr_center.size else None,
        **pictures,
    )
    check_sizes(triplet)
    return triplet


def _floats(buffer: Any) -> np.ndarray:
    return np.frombuffer(buffer, "<f4").astype(np.float32, copy=False)


def check_sizes(triplet: Triplet) -> None:
    """Raise ValueError unless LR, Ref, HR, detail and box belong together."""
    height, width = triplet.lr.shape[:2]
    rows, cols = triplet.hr.shape[:2]
    if (rows, cols) != (SCALE * height, SCALE * width):
        raise ValueError(
            f"{triplet.id}: HR is {rows}x{cols}, need {SCALE * height}x{SCALE * width}, "
            f"{SCALE} times LR's {height}x{width}"
        )
    _check_center(triplet)
    box = triplet.center_box
    if triplet.ref.shape[:2] != (box.height, box.width):
        raise ValueError(
            f"{triplet.id}: Ref is {triplet.ref.shape[0]}x{triplet.ref.shape[1]}, need "
            f"{box.height}x{box.width}, the size of its centre box {list(box)}"
        )
    cells = (height // LR_PER_CELL, width // LR_PER_CELL)
    if triplet.detail.shape != cells or triplet.detail_quantiles.shape != (101,):
        raise ValueError(
            f"{triplet.id}: detail is {triplet.detail.shape} with "
            f"{triplet.detail_quantiles.shape} quantiles, need {cells} with (101,)"
        )
    if not (np.isfinite(triplet.detail).all() and np.isfinite(triplet.detail_quantiles).all()):
        raise ValueError(f"{triplet.id}: detail is not finite; preprocess again")


def _check_center(triplet: Triplet) -> None:
    box, source = triplet.center_box, triplet.lr_center
    if source is None:
        check_box(box, triplet.hr.shape, triplet.id)
        return
    on_grid = all(edge % HR_PER_CELL == 0 for edge in box)
    if not on_grid or (box.height, box.width) != (SCALE * source.shape[0], SCALE * source.shape[1]):
        raise ValueError(
            f"{triplet.id}: centre box is {list(box)}, need multiples of {HR_PER_CELL} and "
            f"{SCALE} times the {source.shape[0]}x{source.shape[1]} of its LR picture"
        )


def max_crop_px(triplet: Triplet) -> int:
    """Side of the largest even LR crop that fits the picture and its snapped centre box."""
    box = to_lr(snap_box(triplet.center_box))
    side = min(*triplet.lr.shape[:2], box.height, box.width)
    return side - side % LR_PER_CELL


def update_digest(digest: "hashlib._Hash", record: Mapping[str, Any]) -> None:
    """Take a record into a hash of contents, every field with its length before it."""
    for name in SCHEMA.names:
        value = record[name]
        if isinstance(value, str | int | list):
            value = json.dumps(value).encode()
        digest.update(len(value).to_bytes(8, "little"))
        digest.update(value)
