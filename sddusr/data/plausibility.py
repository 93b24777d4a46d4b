"""Refuse triplets whose pictures do not belong together: another scene, turned, BGR, shifted, flat.

The thresholds lie between 106 good triplets (48 of real optics, 58 made of photographs) and the
same pictures mixed up, turned, mirrored, shifted and with red and blue swapped; docs/lab-notes.md
has the measurements.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from sddusr.geometry.box import Box

MIN_LR_CORRELATION = 0.7
"""Of LR with halved HR. Good triplets have 0.98 or more, wrong ones up to 0.27."""

MIN_REF_CORRELATION = 0.4
"""Of Ref with HR on its box, where it fits best. Good triplets have 0.94 or more, rectified stereo
pairs of large parallax 0.56 or more, wrong ones up to 0.39 (99.7 % of them)."""

MAX_SHIFT_PX = 1.25
"""Of LR against halved HR, in LR pixels. Real optics have up to 0.54."""

MIN_DEVIATION = 0.5
"""Standard deviation of grey levels below which a picture is flat."""

_MIN_STRUCTURE = 1.0
"""Deviation of HR's structure, in grey levels, below which correlation says nothing."""
_MIN_COLOR_DEVIATION = 1.0
_SWAPPED_COLORS = -0.4
"""Correlation of red minus blue. Good triplets with colours have 0.69 or more, swapped ones about
-0.95."""
_LR_SIDE_PX, _LR_SIGMA_PX = 128, 8.0
_REF_SIDE_PX, _REF_SIGMA_PX, _REF_REACH = 96, 6.0, 0.15
"""Long side that is compared, blur that is taken away, and share of a side that Ref may be off."""
_SHIFT_WINDOW_PX, _SHIFT_SIGMA_PX = 1024, 4.0
_MIN_SHIFTED_CORRELATION, _MIN_SHIFT_GAIN = 0.5, 0.1

Image = UInt8[np.ndarray, "_ _ 3"]
Grey = Float32[np.ndarray, "_ _"]


class _Shift(NamedTuple):
    y_px: float
    x_px: float
    before: float
    """Correlation as the pictures lie."""
    after: float
    """Correlation with LR moved back."""


def check_belongs_together(
    names: dict[str, str], lr: Any, ref: Any, hr: Any, box: Box, *, allow_flat: bool
) -> None:
    """Refuse LR, Ref and HR that are not of one scene, in one place.

    Args:
        names: member -> file, for messages.
        lr, ref, hr: RGB of 8 bits; HR has twice LR's sides, Ref lies on `box` of HR.
        allow_flat: take a flat picture as it is; a test set stays as it was published.

    Raises:
        ValueError: which file does not fit, and by what measure.
    """
    flat = {
        member: _grey(image).std() < MIN_DEVIATION
        for member, image in (("hr", hr), ("lr", lr), ("ref", ref))
    }
    if allow_flat and flat["hr"]:
        return
    for member, is_flat in flat.items():
        if is_flat:
            raise ValueError(f"{names[member]}: a flat picture, nothing can be learned from it")
    halved = cv2.resize(hr, lr.shape[1::-1], interpolation=cv2.INTER_AREA)
    _check_lr(names, lr, halved)
    on_box = np.ascontiguousarray(hr[max(box.y0, 0) : box.y1, max(box.x0, 0) : box.x1])
    if on_box.shape == ref.shape:
        _check_ref(names, ref, on_box)


def _check_lr(names: dict[str, str], lr: Image, halved: Image) -> None:
    ours, theirs = (_structure(x, _LR_SIDE_PX, _LR_SIGMA_PX) for x in (lr, halved))
    if theirs.std() >= _MIN_STRUCTURE:
        correlation = _correlate(ours, theirs)
        if correlation < MIN_LR_CORRELATION:
            raise ValueError(
                f"{names['lr']}: is not {names['hr']} made smaller (correlation {correlation:.2f}, "
                f"need {MIN_LR_CORRELATION}); another scene, or turned"
            )
    _check_colors(names["lr"], names["hr"], lr, halved)
    shift = _measure_shift(lr, halved)
    is_better = shift.after - shift.before >= _MIN_SHIFT_GAIN
    if is_better and shift.after >= _MIN_SHIFTED_CORRELATION:
        distance = float(np.hypot(shift.y_px, shift.x_px))
        if distance > MAX_SHIFT_PX:
            raise ValueError(
                f"{names['lr']}: lies {distance:.1f} LR pixels beside {names['hr']} (y "
                f"{shift.y_px:+.1f}, x {shift.x_px:+.1f}; at most {MAX_SHIFT_PX}); align the two"
            )


def _check_ref(names: dict[str, str], ref: Image, on_box: Image) -> None:
    ours, theirs = (_structure(x, _REF_SIDE_PX, _REF_SIGMA_PX) for x in (ref, on_box))
    if theirs.std() >= _MIN_STRUCTURE:
        reach_y, reach_x = (max(1, round(_REF_REACH * side)) for side in ours.shape)
        inner = np.ascontiguousarray(ours[reach_y:-reach_y, reach_x:-reach_x])
        fits = cv2.matchTemplate(theirs, inner, cv2.TM_CCOEFF_NORMED) if inner.size else ours
        if inner.size and (correlation := float(fits.max())) < MIN_REF_CORRELATION:
            raise ValueError(
                f"{names['ref']}: is not what {names['hr']} shows there (correlation "
                f"{correlation:.2f}, need {MIN_REF_CORRELATION}); another scene, or another box"
            )
    _check_colors(names["ref"], names["hr"], ref, on_box)


def _check_colors(name: str, other_name: str, image: Image, other: Image) -> None:
    """Refuse red and blue that are swapped."""
    ours, theirs = (_red_minus_blue(x) for x in (image, other))
    if min(ours.std(), theirs.std()) < _MIN_COLOR_DEVIATION:
        return
    if _correlate(ours, theirs) < _SWAPPED_COLORS:
        raise ValueError(f"{name}: red and blue are swapped against {other_name}; save it as RGB")


def _measure_shift(lr: Image, halved: Image) -> _Shift:
    """Where LR lies against halved HR, by phase correlation of their structure."""
    height, width = lr.shape[:2]
    top, left = (max(0, (side - _SHIFT_WINDOW_PX) // 2) for side in (height, width))
    inside = np.s_[top : top + _SHIFT_WINDOW_PX, left : left + _SHIFT_WINDOW_PX]
    ours, theirs = (_high_pass(_grey(x[inside]), _SHIFT_SIGMA_PX) for x in (lr, halved))
    window = cv2.createHanningWindow(ours.shape[::-1], cv2.CV_32F)
    (x, y), _ = cv2.phaseCorrelate(ours, theirs, window)
    before, edge = _correlate(ours, theirs), int(max(abs(x), abs(y))) + 1
    if not np.isfinite([x, y]).all() or edge > min(ours.shape) // 4:
        return _Shift(0.0, 0.0, before, before)
    moved = cv2.warpAffine(ours, np.array([[1, 0, x], [0, 1, y]], np.float32), ours.shape[::-1])
    cut = np.s_[edge:-edge, edge:-edge]
    return _Shift(-y, -x, before, _correlate(moved[cut], theirs[cut]))


def _structure(image: Image, side_px: int, sigma_px: float) -> Grey:
    return _high_pass(_shrink(_grey(image), side_px), sigma_px)


def _red_minus_blue(image: Image) -> Grey:
    small = _shrink(image, _REF_SIDE_PX).astype(np.float32)
    return small[..., 0] - small[..., 2]


def _grey(image: Image) -> Grey:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _shrink(image: np.ndarray, side_px: int) -> np.ndarray:
    factor = side_px / max(image.shape[:2])
    if factor >= 1:
        return image
    size = tuple(max(1, round(side * factor)) for side in image.shape[1::-1])
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _high_pass(grey: Grey, sigma_px: float) -> Grey:
    return grey - cv2.GaussianBlur(grey, (0, 0), sigma_px)


def _correlate(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Normalized correlation, in [-1, 1]; 0 where one of the two is constant."""
    ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    norm = np.sqrt((ours**2).sum(dtype=np.float64) * (theirs**2).sum(dtype=np.float64))
    return float((ours * theirs).sum(dtype=np.float64) / norm) if norm > 0 else 0.0
