"""A wide and a tele picture made a pair: Ref on the wide picture's HR grid, in its colours."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8, UInt16

from sddusr.geometry.box import Box, crop, whole
from sddusr.geometry.homography import (
    Homography,
    box_inside,
    corner_points,
    resizing,
    transform,
)
from sddusr.imaging.images import Picture, focal_length_35mm
from sddusr.registration.color_match import ColorConfig, ColorMap, fit_color
from sddusr.registration.parallax import MIN_GAIN, Parallax, follow_parallax
from sddusr.registration.quality import measure_quality
from sddusr.registration.register import (
    NotRegistered,
    RegistrationConfig,
    check_sides,
    register,
)
from sddusr.registration.residual import as_depth, denoised_and_filled, enlarged_center, grey
from sddusr.registration.visible import visible_mask

Pixels = UInt8[np.ndarray, "_ _ 3"] | UInt16[np.ndarray, "_ _ 3"]

FULLY = 0.999
"""Of what is read for a pixel, the share that must be visible."""
STRIP_ROWS = 256
"""Rows of Ref that are resampled at a time."""


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    registration: RegistrationConfig = field(default_factory=RegistrationConfig)
    color: ColorConfig = field(default_factory=ColorConfig)
    min_box_px: int = 64
    """Sides of the centre, in HR pixels."""
    min_flow_gain: float = MIN_GAIN
    """A flow is followed only if it explains this share of the correlation of detail that the
    homography leaves missing, on places that it was not fitted to."""
    min_ncc: float = 0.7
    """Correlation of detail once parallax was followed; pictures taken at one time and place have
    0.85 and more, those whose flow tears the tele picture have 0.6 and less."""


class PreparedPair(NamedTuple):
    ref: Pixels
    """The tele picture on `box` at HR density, in the wide picture's colours and its own depth."""
    valid: Bool[np.ndarray, "rows cols"]
    """False where the tele picture has nothing to show."""
    box: Box
    """In HR pixels, all edges on the matching grid."""
    record: dict[str, Any]


def zoom_guess(wide: Picture, tele: Picture) -> float | None:
    """Tele pixels per wide pixel by the two focal lengths; None where a file does not tell."""
    focal_mm = [focal_length_35mm(picture.metadata) for picture in (wide, tele)]
    if focal_mm[0] is None or focal_mm[1] is None:
        return None
    num_wide, num_tele = (max(picture.pixels.shape[:2]) for picture in (wide, tele))
    return num_tele * focal_mm[1] / (num_wide * focal_mm[0])


def prepare_pair(
    wide: Pixels,
    tele: Pixels,
    density: Literal[1, 2],
    *,
    zoom_guess: float | None = None,
    config: PairConfig = PairConfig(),
    alpha: UInt8[np.ndarray, "_ _"] | UInt16[np.ndarray, "_ _"] | None = None,
) -> PreparedPair:
    """Find the tele view in the wide picture and resample it, once, onto the HR grid.

    `density` is HR pixels per wide pixel: 2 to super-resolve the wide picture, 1 where it is HR.
    `zoom_guess` is tele pixels per wide pixel, None if unknown. `alpha` is the tele picture's.
    Where it is not opaque, and in uniform bars, the tele picture shows nothing, and Ref is the
    enlarged wide picture; with `density` 1, where that would be HR itself, its border is repeated.

    Raises:
        NotRegistered: the tele picture was not found in the wide one, or a side is too long.
    """
    check_sides("the tele picture", *tele.shape[:2])
    grey_wide, grey_tele = grey(wide), grey(tele)
    found = register(grey_wide, grey_tele, zoom_guess=zoom_guess, config=config.registration)
    to_wide = resizing(1 / density, 1 / density)
    box = _center_box(np.linalg.inv(to_wide) @ found.homography, wide, tele, density, config)
    check_sides("the box of the tele picture", box.height, box.width)
    visible = visible_mask(tele, alpha)
    parallax = follow_parallax(
        grey_wide, grey_tele, found.homography, config.min_flow_gain, visible
    )
    _check_likeness(parallax, config.min_ncc)
    if config.registration.refine == "none":
        parallax = None
    tele_per_hr = found.view.zoom / density
    ref, valid = _resampled(
        prefiltered(tele, tele_per_hr), visible, found.homography, to_wide, box, parallax
    )
    colors = _fit_colors(ref, wide, valid, box, density, config.color)
    record = {
        **found.record(),
        "zoom_guess": zoom_guess,
        "ncc_before": parallax.record["ncc_before"] if parallax else found.ncc,
        "ncc_after": parallax.record["ncc_after"] if parallax else found.ncc,
        "flow": parallax.record if parallax else None,
        "color": colors.record(),
        "decision": "registered",
        "why": "",
    }
    ref = colors.apply(ref)
    if density > 1:
        center = enlarged_center(wide, box)
        quality = measure_quality(ref, as_depth(center, ref.dtype), valid, tele)
        record |= {"quality": quality.record(), "left_out": quality.is_useless}
        shown = np.zeros_like(valid) if quality.is_useless else valid
        ref = denoised_and_filled(ref, center, shown, quality)
    return PreparedPair(ref, valid, box, record)


def _check_likeness(parallax: Parallax, min_ncc: float) -> None:
    ncc = max(parallax.record["ncc_before"], parallax.record["ncc_after"])
    if not ncc >= min_ncc:
        raise NotRegistered(
            f"the tele picture's place is found, but its detail correlates with the wide one's "
            f"by {ncc:.2f} only, parallax followed, need {min_ncc:.2f}; take both "
            f"pictures at one time and from one place"
        )


def _center_box(
    to_hr: Homography, wide: Pixels, tele: Pixels, density: int, config: PairConfig
) -> Box:
    height, width = wide.shape[:2]
    quad = transform(to_hr, corner_points(tele.shape))
    box = box_inside(quad, whole(height * density, width * density))
    sides = [box.height, box.width] if box else [0, 0]
    if box is None or min(sides) < config.min_box_px:
        raise NotRegistered(
            f"the tele picture covers {sides[0]}x{sides[1]} HR pixels of the wide one, need "
            f"{config.min_box_px} a side; take larger pictures"
        )
    return box


def prefiltered(tele: Pixels, tele_per_hr: float) -> Pixels:
    """The tele picture without the detail that would alias at `tele_per_hr` pixels for one of HR.

    The cubic kernel (Keys, a = -1/2) that `tele_per_hr` widens, as antialiased resizing does.
    """
    if tele_per_hr <= 1:
        return tele
    reach = int(np.ceil(2 * tele_per_hr))
    x = np.abs(np.arange(-reach, reach + 1) / tele_per_hr)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    kernel = np.where(x <= 1, near, np.where(x < 2, far, 0))
    kernel /= kernel.sum()
    return cv2.sepFilter2D(tele, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


def _resampled(
    tele: Pixels,
    visible: Bool[np.ndarray, "_ _"],
    homography: Homography,
    to_wide: Homography,
    box: Box,
    parallax: Parallax | None,
) -> tuple[Pixels, Bool[np.ndarray, "rows cols"]]:
    """The tele picture on `box`, and where it has pixels."""
    height, width = tele.shape[:2]
    ref = np.empty((box.height, box.width, 3), tele.dtype)
    seen = None if visible.all() else visible.astype(np.float32)
    valid = np.empty(ref.shape[:2], bool)
    for y0 in range(box.y0, box.y1, STRIP_ROWS):
        strip = box._replace(y0=y0, y1=min(y0 + STRIP_ROWS, box.y1))
        x, y = _tele_points(homography, to_wide, strip, parallax)
        rows = slice(strip.y0 - box.y0, strip.y1 - box.y0)
        ref[rows] = cv2.remap(tele, x, y, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
        valid[rows] = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
        if seen is not None:
            valid[rows] &= cv2.remap(seen, x, y, cv2.INTER_LINEAR) > FULLY
    return ref, valid


def _tele_points(
    homography: Homography, to_wide: Homography, strip: Box, parallax: Parallax | None
) -> tuple[Float32[np.ndarray, "rows cols"], Float32[np.ndarray, "rows cols"]]:
    """x and y in the tele picture of each HR pixel of a strip."""
    x, y = np.meshgrid(np.arange(strip.x0, strip.x1), np.arange(strip.y0, strip.y1))
    points = np.stack([x, y], -1).astype(np.float64)
    to_tele = np.linalg.inv(homography)
    if parallax is None or parallax.flow is None:
        points = cv2.perspectiveTransform(points, to_tele @ to_wide)
    else:
        points = cv2.perspectiveTransform(points, np.linalg.inv(parallax.to_wide) @ to_wide)
        x, y = np.moveaxis(points.astype(np.float32), 2, 0)
        points += cv2.remap(parallax.flow, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        points = cv2.perspectiveTransform(points, to_tele @ parallax.to_wide)
    x, y = np.moveaxis(points.astype(np.float32), 2, 0)
    return np.ascontiguousarray(x), np.ascontiguousarray(y)


def _fit_colors(
    ref: Pixels,
    wide: Pixels,
    valid: Bool[np.ndarray, "rows cols"],
    box: Box,
    density: int,
    config: ColorConfig,
) -> ColorMap:
    part = crop(wide, Box(*(edge // density for edge in box)))
    size = part.shape[1::-1]
    small = cv2.resize(ref, size, interpolation=cv2.INTER_AREA)
    seen = cv2.resize(valid.astype(np.uint8), size, interpolation=cv2.INTER_AREA) > 0
    return fit_color(small, part, seen, config)
