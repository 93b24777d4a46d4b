"""Register a Ref that is already on the HR grid: remove the motion and colours that are left over.

Data sets ship Ref on its box to a pixel or two. A detail that is added to the picture needs it to a
fraction of a pixel: 2 px off, laying Ref over bicubic loses 3 dB where it gains 10.
"""

import math
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from sddusr.config import SCALE
from sddusr.geometry.box import Box, crop
from sddusr.geometry.homography import Homography
from sddusr.imaging.arrays import Pixels, enlarge_bicubic
from sddusr.registration.chroma_noise import MIN_NOISE, denoise_chroma
from sddusr.registration.color_match import ColorConfig, ColorMap, fit_color
from sddusr.registration.overlap import (
    Flow,
    Grey,
    Overlap,
    beyond_blur,
    detail_correlation,
    remaining_homography,
    resized,
)
from sddusr.registration.parallax import Parallax, estimate_parallax
from sddusr.registration.quality import RefQuality, measure_quality
from sddusr.registration.register import check_sides
from sddusr.registration.visible import visible_mask

RefRegistration = Literal["auto", "homography", "none"]
"""`auto`: a homography, then a smooth flow where it explains more; `homography`: the first alone;
`none`: Ref as it is given, the protocol of the paper."""

MIN_MOTION_PX = 0.25
"""Motion below this (HR px, root mean square) is within the error of the estimate and of what wide
pictures of real lenses are registered to (0.14 px on City100): it is not followed."""
MAX_WORKING_PIXELS = 1_200_000
"""Pixels of the overlap in which motion is estimated; larger ones are reduced to that."""
WIDE_BLUR_PX = 1.0
"""Sigma (HR px) that brings Ref near the enlarged centre's sharpness for the comparison."""
NUM_REFITS = 2
"""Estimates of the homography, each on the Ref that the one before moved."""
STRIP_ROWS = 512
"""Rows of Ref that are resampled at a time."""


class RegisteredRef(NamedTuple):
    """A Ref that lies on the centre, and how it came there."""

    ref: Pixels
    """On its box at HR density; where it has nothing to show, the enlarged centre."""
    valid: Bool[np.ndarray, "rows cols"]
    """False where Ref has nothing to show: beyond its border, transparent, black bars; everywhere
    if Ref is too soft, noisy or compressed to be of use."""
    record: dict[str, Any]


def register_ref(
    lr: Pixels,
    ref: Pixels,
    box: Box,
    method: RefRegistration = "auto",
    *,
    visible: Bool[np.ndarray, "rows cols"] | None = None,
    color: ColorConfig | None = None,
) -> RegisteredRef:
    """Register Ref to the centre of the wide picture: motion first, then colours.

    Args:
        lr: the whole wide picture.
        ref: the tele picture on `box`, at HR density.
        box: HR pixels, at any phase of the LR grid.
        method: `none` returns Ref as it is.
        color: how colours are fitted; None is the default fit.
        visible: False where Ref shows nothing (alpha); None: everywhere but in uniform bars.

    Raises:
        NotRegistered: a side of Ref is too long.
    """
    shown = visible_mask(ref) if visible is None else visible
    if method == "none":
        return RegisteredRef(ref, shown, {"method": "none"})
    check_sides("Ref", *ref.shape[:2])
    center = enlarged_center(lr, box)
    overlap = _overlap(center, ref, shown)
    homography, record = _fit_motion(overlap)
    parallax = None
    if method == "auto":
        parallax = estimate_parallax(_moved(overlap, homography))
        record["flow"] = parallax.record
    as_given = ref
    ref, shown = _resample(ref, shown, homography, parallax)
    colors = _fit_colors(ref, lr, box, shown, color or ColorConfig())
    ref = colors.apply(ref)
    quality = measure_quality(ref, as_depth(center, ref.dtype), shown, as_given)
    record |= {
        "method": method,
        "color": colors.record(),
        "valid_share": float(shown.mean()),
        "quality": quality.record(),
        "left_out": quality.is_useless,
    }
    if quality.is_useless:
        shown = np.zeros_like(shown)
    return RegisteredRef(denoised_and_filled(ref, center, shown, quality), shown, record)


def enlarged_center(lr: Pixels, box: Box) -> Pixels:
    """Bicubic enlargement of what the wide picture shows of a box (HR px, any phase).

    Border pixels of the box see the same LR pixels as they would in the enlarged whole picture.
    """
    margin = 4
    height, width = lr.shape[:2]
    y0, x0 = (max(start // SCALE - margin, 0) for start in (box.y0, box.x0))
    y1, x1 = (
        min(-(-end // SCALE) + margin, side) for end, side in ((box.y1, height), (box.x1, width))
    )
    large = enlarge_bicubic(lr[y0:y1, x0:x1].astype(np.float32))
    inner = box.shifted(-SCALE * y0, -SCALE * x0)
    top = np.iinfo(lr.dtype).max
    return np.rint(crop(large, inner)).clip(0, top).astype(lr.dtype)


def fill(ref: Pixels, center: Pixels, valid: Bool[np.ndarray, "rows cols"]) -> Pixels:
    """Ref with the enlarged centre, which adds no detail, where it has nothing to show."""
    if valid.all():
        return ref
    return np.where(valid[..., None], ref, as_depth(center, ref.dtype))


def denoised_and_filled(
    ref: Pixels, center: Pixels, valid: Bool[np.ndarray, "rows cols"], quality: RefQuality
) -> Pixels:
    """Ref without chroma noise, and the enlarged centre where Ref has nothing to show."""
    filled = fill(ref, center, valid)
    if quality.chroma_noise <= MIN_NOISE or not valid.any():
        return filled
    return fill(denoise_chroma(filled, quality.chroma_noise), center, valid)


def as_depth(picture: Pixels, dtype: Any) -> Pixels:
    """The picture in another depth."""
    if picture.dtype == dtype:
        return picture
    top, now = np.iinfo(dtype).max, np.iinfo(picture.dtype).max
    return np.rint(picture.astype(np.float32) * (top / now)).astype(dtype)


def grey(picture: Pixels) -> Grey:
    """Luma in 8 bits, whatever the depth."""
    luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return luma if luma.dtype == np.uint8 else cv2.convertScaleAbs(luma, alpha=1 / 257)


def _overlap(center: Pixels, ref: Pixels, shown: Bool[np.ndarray, "rows cols"]) -> Overlap:
    """Centre and Ref at one density and nearly one sharpness, at most the working size."""
    scale = min(1.0, math.sqrt(MAX_WORKING_PIXELS / shown.size))
    tele = cv2.GaussianBlur(grey(fill(ref, center, shown)), (0, 0), WIDE_BLUR_PX)
    wide, to_full = resized(grey(center), scale) if scale < 1 else (grey(center), np.eye(3))
    tele = resized(tele, scale)[0] if scale < 1 else tele
    size = wide.shape[::-1]
    seen = beyond_blur(shown.astype(np.uint8))
    inside = cv2.resize(seen, size, interpolation=cv2.INTER_AREA) > 0
    return Overlap(wide, tele, inside, to_full)


def _fit_motion(overlap: Overlap) -> tuple[Homography, dict[str, Any]]:
    """Ref pixels to centre pixels, in full resolution; the identity where it is not to be moved."""
    before = detail_correlation(overlap.wide, overlap.tele, overlap.inside)
    found = np.eye(3)
    for _ in range(NUM_REFITS):
        step = remaining_homography(_moved(overlap, overlap.to_wide @ found @ _inverse(overlap)))
        if step is None:
            break
        found = step @ found
    after_overlap = _moved(overlap, overlap.to_wide @ found @ _inverse(overlap))
    after = detail_correlation(overlap.wide, after_overlap.tele, after_overlap.inside)
    full = overlap.to_wide @ found @ _inverse(overlap)
    motion_px = _motion_px(full, overlap)
    followed = motion_px >= MIN_MOTION_PX and after > before
    record = {
        "motion_px": motion_px,
        "followed": bool(followed),
        "ncc_before": before,
        "ncc_after": after if followed else before,
    }
    full = full / full[2, 2] if followed else np.eye(3)
    return full, record | {"homography": full.tolist()}


def _inverse(overlap: Overlap) -> Homography:
    return np.linalg.inv(overlap.to_wide)


def _motion_px(homography: Homography, overlap: Overlap) -> float:
    """Root mean square of the steps over the overlap, in HR pixels."""
    height, width = overlap.wide.shape
    y, x = np.mgrid[0 : height - 1 : 9j, 0 : width - 1 : 9j]
    small = np.stack([x.ravel(), y.ravel()], 1)
    points = cv2.perspectiveTransform(small[:, None], overlap.to_wide)
    moved = cv2.perspectiveTransform(points, homography)
    return float(np.sqrt(np.square(moved - points).sum(-1).mean()))


def _moved(overlap: Overlap, homography: Homography) -> Overlap:
    """The overlap with its tele picture moved by a homography of full-resolution pixels."""
    warp = _inverse(overlap) @ homography @ overlap.to_wide
    size = overlap.wide.shape[::-1]
    tele = cv2.warpPerspective(
        overlap.tele, warp, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    inside = cv2.warpPerspective(
        overlap.inside.astype(np.uint8), warp, size, flags=cv2.INTER_NEAREST
    )
    return overlap._replace(tele=tele, inside=inside > 0)


def _resample(
    ref: Pixels,
    shown: Bool[np.ndarray, "rows cols"],
    homography: Homography,
    parallax: Parallax | None,
) -> tuple[Pixels, Bool[np.ndarray, "rows cols"]]:
    """Ref moved once, in strips, and where it then has something to show."""
    flow = parallax.flow if parallax else None
    if flow is None and np.array_equal(homography, np.eye(3)):
        return ref, shown
    height, width = shown.shape
    moved, valid = np.empty_like(ref), np.empty_like(shown)
    seen = shown.astype(np.float32)
    back = np.linalg.inv(homography)
    for start in range(0, height, STRIP_ROWS):
        end = min(start + STRIP_ROWS, height)
        x, y = _source_points(back, flow, parallax, start, end, width)
        moved[start:end] = cv2.remap(ref, x, y, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
        inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        seen_there = cv2.remap(seen, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        valid[start:end] = inside & (seen_there > 0.999)
    return moved, valid


def _source_points(
    back: Homography,
    flow: Flow | None,
    parallax: Parallax | None,
    start: int,
    end: int,
    width: int,
) -> tuple[Float32[np.ndarray, "rows cols"], Float32[np.ndarray, "rows cols"]]:
    """x and y in Ref of each pixel of some rows of the centre."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(start, end, dtype=np.float64))
    points = np.stack([x, y], -1)
    if flow is not None and parallax is not None:
        small = cv2.perspectiveTransform(points, np.linalg.inv(parallax.to_wide))
        at_x, at_y = np.moveaxis(small.astype(np.float32), 2, 0)
        step = cv2.remap(flow, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        points = cv2.perspectiveTransform(small + step, parallax.to_wide)
    points = cv2.perspectiveTransform(points, back)
    x, y = np.moveaxis(points.astype(np.float32), 2, 0)
    return np.ascontiguousarray(x), np.ascontiguousarray(y)


def _fit_colors(
    ref: Pixels, lr: Pixels, box: Box, valid: Bool[np.ndarray, "rows cols"], config: ColorConfig
) -> ColorMap:
    """Ref's colours to the wide picture's, compared at LR's density."""
    inner = Box(*(-(-edge // SCALE) if i % 2 == 0 else edge // SCALE for i, edge in enumerate(box)))
    large = Box(*(SCALE * edge for edge in inner)).shifted(-box.y0, -box.x0)
    size = inner.width, inner.height
    small = cv2.resize(crop(ref, large), size, interpolation=cv2.INTER_AREA)
    seen = cv2.resize(crop(valid, large).astype(np.uint8), size, interpolation=cv2.INTER_AREA) > 0
    return fit_color(small, crop(lr, inner), seen, config)
