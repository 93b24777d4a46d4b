"""What tele pictures suffer in the field, done to the Ref of a training sample.

Every draw comes from the sample's own generator, so a resumed run and any number of workers see the
same.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from sddusr.config import RefsConfig

Ref = UInt8[np.ndarray, "rows cols 3"]

KINDS = (
    "defocus",
    "noise",
    "occluder",
    "exposure",
    "color",
    "jpeg",
    "zoom",
    "shift",
    "absent",
)
STAMP_CHARACTERS = "0123456789:/' -"


class FaultyRef(NamedTuple):
    ref: Ref
    has_ref: bool


def draw_fault(config: RefsConfig, rng: np.random.Generator) -> str:
    """What a sample's Ref suffers; empty for most of the time."""
    edges = np.cumsum([getattr(config, f"{kind}_share") for kind in KINDS])
    index = int(np.searchsorted(edges, rng.random(), side="right"))
    return KINDS[index] if index < len(KINDS) else ""


def apply_fault(
    kind: str,
    ref: Ref,
    lr_center: UInt8[np.ndarray, "h w 3"],
    other: UInt8[np.ndarray, "_ _ 3"],
    config: RefsConfig,
    rng: np.random.Generator,
) -> FaultyRef:
    """Ref as it comes.

    Args:
        kind: from `draw_fault`.
        lr_center: what the wide lens saw of Ref's place.
        other: pixels of HR's density from elsewhere: what an occluder shows.
    """
    if kind in ("", "absent"):
        return FaultyRef(ref, kind != "absent")
    changed = {
        "defocus": lambda: _defocus(ref, config, rng),
        "noise": lambda: _add_noise(ref, rng.uniform(*config.noise_sigma), rng),
        "occluder": lambda: _occlude(ref, lr_center, other, config, rng),
        "exposure": lambda: _underexpose(ref, rng.uniform(*config.exposure_gain), rng),
        "color": lambda: _shift_colors(ref, config.color_error, rng),
        "jpeg": lambda: _compress(ref, config, rng),
        "zoom": lambda: _enlarge(lr_center),
        "shift": lambda: _shift(ref, rng.uniform(*config.shift_px), rng),
    }[kind]()
    return FaultyRef(np.ascontiguousarray(changed), True)


def _to_uint8(picture: Float32[np.ndarray, "rows cols 3"]) -> Ref:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _defocus(ref: Ref, config: RefsConfig, rng: np.random.Generator) -> Ref:
    sigma = rng.uniform(*config.defocus_px)
    if rng.random() < 0.5:
        return cv2.GaussianBlur(ref, (0, 0), sigma)
    radius = 2 * sigma  # a disk of this radius has that standard deviation along each axis
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = np.clip(radius + 0.5 - np.hypot(y, x), 0, 1).astype(np.float32)
    return cv2.filter2D(ref, -1, disk / disk.sum(), borderType=cv2.BORDER_REFLECT_101)


def _add_noise(ref: Ref, sigma: float, rng: np.random.Generator) -> Ref:
    return _to_uint8(ref + rng.normal(0, sigma, ref.shape).astype(np.float32))


def _underexpose(ref: Ref, gain: float, rng: np.random.Generator) -> Ref:
    dark = _add_noise(_to_uint8(ref * np.float32(gain)), rng.uniform(0, 1.5), rng)
    return _to_uint8(dark / np.float32(gain))


def _shift_colors(ref: Ref, error: float, rng: np.random.Generator) -> Ref:
    gains = rng.uniform(1 - error, 1 + error, 3).astype(np.float32)
    return _to_uint8(ref * gains + rng.uniform(-6, 6, 3).astype(np.float32))


def _compress(ref: Ref, config: RefsConfig, rng: np.random.Generator) -> Ref:
    quality = int(rng.integers(*config.jpeg_quality, endpoint=True))
    _, data = cv2.imencode(".jpg", ref, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _enlarge(lr_center: UInt8[np.ndarray, "h w 3"]) -> Ref:
    return cv2.resize(lr_center, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)


def _shift(ref: Ref, length_px: float, rng: np.random.Generator) -> Ref:
    angle = rng.uniform(0, 2 * np.pi)
    step = length_px * np.array([np.cos(angle), np.sin(angle)])
    move = np.array([[1, 0, step[0]], [0, 1, step[1]]], np.float64)
    size = ref.shape[1::-1]
    return cv2.warpAffine(ref, move, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


def _occlude(
    ref: Ref,
    lr_center: UInt8[np.ndarray, "h w 3"],
    other: UInt8[np.ndarray, "_ _ 3"],
    config: RefsConfig,
    rng: np.random.Generator,
) -> Ref:
    """An object, a stamp, a bar along an edge, or a part that was filled."""
    kind = rng.choice(["object", "flat", "stamp", "fill"], p=[0.4, 0.2, 0.25, 0.15])
    rows, cols = ref.shape[:2]
    if kind == "stamp":
        return _stamp(ref, rng)
    height, width = (
        max(4, round(side * rng.uniform(*config.occluder_side))) for side in (rows, cols)
    )
    if rng.random() < 0.2:  # along a whole edge
        height, width = (rows, width) if rng.random() < 0.5 else (height, cols)
    # It may reach beyond the crop, as most of an object does.
    y = int(rng.integers(-height // 2, rows - height // 2))
    x = int(rng.integers(-width // 2, cols - width // 2))
    shape = _shape(rows, cols, (y, x, height, width), rng)
    if kind == "fill":
        shown = _enlarge(lr_center)
    elif kind == "flat":
        shown = np.full_like(ref, rng.integers(0, 256, 3) * (rng.random() > 0.3))
    else:
        shown = _texture(other, rows, cols, rng)
    return _to_uint8(ref + shape[..., None] * (shown.astype(np.float32) - ref))


def _shape(
    rows: int, cols: int, place: tuple[int, int, int, int], rng: np.random.Generator
) -> Float32[np.ndarray, "rows cols"]:
    """1 where the occluder is, a soft edge around it."""
    y, x, height, width = place
    shape = np.zeros((rows, cols), np.float32)
    if rng.random() < 0.5:
        middle, axes = (x + width // 2, y + height // 2), (width // 2, height // 2)
        cv2.ellipse(shape, middle, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
    else:
        cv2.rectangle(shape, (x, y), (x + width - 1, y + height - 1), 1.0, -1)
    sigma = rng.uniform(0.3, 2.0)
    return cv2.GaussianBlur(shape, (0, 0), sigma)


def _texture(
    other: UInt8[np.ndarray, "_ _ 3"], rows: int, cols: int, rng: np.random.Generator
) -> Ref:
    """A crop of another place, turned upside down or brighter or darker."""
    tall, long = max(other.shape[0] - rows, 0), max(other.shape[1] - cols, 0)
    y, x = int(rng.integers(0, tall + 1)), int(rng.integers(0, long + 1))
    part = other[y : y + rows, x : x + cols][:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    pad = rows - part.shape[0], cols - part.shape[1]
    part = np.pad(part, ((0, pad[0]), (0, pad[1]), (0, 0)), mode="edge")
    return _to_uint8(part * np.float32(rng.uniform(0.5, 1.4)))


def _stamp(ref: Ref, rng: np.random.Generator) -> Ref:
    text = "".join(rng.choice(list(STAMP_CHARACTERS), int(rng.integers(3, 12))))
    stamped = ref.copy()
    place = int(rng.integers(0, ref.shape[1] // 2)), int(rng.integers(12, ref.shape[0]))
    color = tuple(int(c) for c in rng.integers(0, 256, 3))
    size, thick = float(rng.uniform(0.4, 1.6)), int(rng.integers(1, 4))
    cv2.putText(stamped, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, color, thick, cv2.LINE_AA)
    return stamped
