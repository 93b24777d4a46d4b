"""Where the tele view lies in the wide picture: one homography, and whether it can be believed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float64

from sddusr.geometry.homography import Homography, View, corner_points, transform, view_of
from sddusr.registration.keypoints import Matches, features, mutual_matches
from sddusr.registration.overlap import (
    MAX_SIDE_PX,
    Grey,
    cut_overlap,
    detail_correlation,
    remaining_homography,
    resized,
)

LIKELY_ZOOMS = 1.6, 3.5, 7.5
"""Where nothing is known; SIFT finds what is off by a factor of 1.6, less well."""
MAX_ENLARGEMENT = 2.0
"""Small pictures are searched larger: SIFT sees little in few pixels."""
NUM_SURE = 100
"""With so many agreeing matches no other zoom is tried."""
REFIT_SCALES = 1.0, 2.0, 2.0
"""Densities of the overlap, over the wide picture's, at which the homography is made exact."""
WORSE_NCC = 0.01
"""A refit whose correlation falls by more is dropped."""
KEPT_INLIERS = 0.8
"""A refit must still explain this share of the matches; with parallax it may find another plane."""


class NotRegistered(ValueError):
    """The tele picture was not found in the wide one; the message has the measured reason."""


def check_sides(what: str, height: int, width: int) -> None:
    """Refuse a picture that OpenCV cannot resample.

    Raises:
        NotRegistered: a side is too long.
    """
    if max(height, width) > MAX_SIDE_PX:
        raise NotRegistered(
            f"{what} is {height}x{width} pixels, need at most {MAX_SIDE_PX} a side to register it; "
            f"make both pictures smaller"
        )


@dataclass(frozen=True, kw_only=True)
class RegistrationConfig:
    refine: Literal["flow", "none"] = "flow"
    """Follow parallax by a dense flow after the homography, or leave it there."""
    working_px: int = 1_200_000
    """Pixels of a picture, or of the overlap, while the homography is searched."""
    max_keypoints: int = 6000
    """SIFT points of a picture."""
    match_ratio: float = 0.85
    """A match's distance over the second best's, at most."""
    inlier_px: float = 3.0
    """Distance within which a match agrees with the homography, at the working size."""
    min_zoom: float = 1.2
    """Tele pixels per wide pixel; at 1 the tele picture has nothing to add to the wide one."""
    max_zoom: float = 10.5
    """Tele pixels per wide pixel, or the fields of view where a denser sensor makes that less."""
    max_rotation_deg: float = 15.0
    """Off upright, or off the nearest quarter turn."""
    max_anisotropy: float = 1.25
    """Zoom along the direction where it is greatest over the least."""
    max_perspective: float = 1.8
    """Zoom at the tele picture's corner where it is greatest over the least."""
    min_overlap: float = 0.6
    """Share of the tele picture inside the wide one."""
    min_inliers: int = 8
    """Matches that agree."""
    min_inlier_share: float = 0.15
    """Of all matches."""
    min_spread: float = 0.03
    """Area of the agreeing matches' hull over the tele picture's."""
    max_reprojection_px: float = 2.0
    """Median distance of the agreeing matches, at the working size."""
    min_ncc: float = 0.1
    """Correlation of tele and wide detail by the homography; parallax leaves little of it."""
    few_inliers: int = 30
    """With fewer, parallax is no excuse and `min_ncc_of_few` is asked."""
    min_ncc_of_few: float = 0.6


class Registration(NamedTuple):
    homography: Homography
    """Tele pixels to wide pixels."""
    view: View
    num_matches: int
    num_inliers: int
    spread: float
    reprojection_px: float
    """Median over the inliers, in wide pixels."""
    ncc: float

    def record(self) -> dict[str, Any]:
        fields = self._asdict() | {"homography": self.homography.tolist()}
        return fields | fields.pop("view")._asdict()


class _Found(NamedTuple):
    homography: Homography
    inliers: Matches
    num_matches: int


def register(
    wide: Grey,
    tele: Grey,
    *,
    zoom_guess: float | None = None,
    config: RegistrationConfig = RegistrationConfig(),
) -> Registration:
    """Find the tele picture in the wide one: matches, a plane, a refit by flow, checks.

    `zoom_guess` is tele pixels per wide pixel; a wrong one costs time, no more.

    Raises:
        NotRegistered: nothing was found that can be believed.
    """
    found = _search(wide, tele, zoom_guess, config)
    view = view_of(found.homography, tele.shape, wide.shape)
    density = max(1.0, max(tele.shape) / max(wide.shape))
    _check_view(view, density, config)
    homography, ncc = _refitted(wide, tele, found, config)
    corners = transform(homography, corner_points(tele.shape))
    hull = cv2.convexHull(transform(homography, found.inliers.tele).astype(np.float32))
    registration = Registration(
        homography,
        view_of(homography, tele.shape, wide.shape),
        found.num_matches,
        len(found.inliers.tele),
        cv2.contourArea(hull) / cv2.contourArea(corners.astype(np.float32)),
        float(np.median(_distances(homography, found.inliers))),
        ncc,
    )
    _check_view(registration.view, density, config)
    _check_evidence(registration, config, _unit_px(wide, config))
    return registration


def _working_scale(picture: Grey, config: RegistrationConfig) -> float:
    return min(MAX_ENLARGEMENT, math.sqrt(config.working_px / picture.size))


def _unit_px(wide: Grey, config: RegistrationConfig) -> float:
    """Wide pixels per pixel of the working size."""
    return 1 / _working_scale(wide, config)


def _search(wide: Grey, tele: Grey, zoom_guess: float | None, config: RegistrationConfig) -> _Found:
    """The homography on which most matches agree, over the likely zooms."""
    best: _Found | None = None
    num_matches = 0
    for matches in _matches_by_zoom(wide, tele, zoom_guess, config):
        num_matches = max(num_matches, len(matches.tele))
        found = _agreement(matches, config.inlier_px * _unit_px(wide, config))
        if found and (best is None or len(found.inliers.tele) > len(best.inliers.tele)):
            best = found
        if best and len(best.inliers.tele) >= NUM_SURE:
            break
    if best is None:
        raise NotRegistered(
            f"the tele picture is not found in the wide one: {num_matches} places look alike and "
            f"agree on no plane, need {config.min_inliers} that do; {_REMEDY}"
        )
    return best


def _matches_by_zoom(
    wide: Grey, tele: Grey, zoom_guess: float | None, config: RegistrationConfig
) -> Iterator[Matches]:
    scale = _working_scale(wide, config)
    small_wide, wide_up = resized(wide, scale)
    wide_points, wide_descriptors = features(small_wide, config.max_keypoints)
    tried = set[float]()
    for zoom in (*([zoom_guess] if zoom_guess else []), *LIKELY_ZOOMS):
        # A little denser than the wide picture: the zoom may be less.
        tele_scale = min(1.0, _working_scale(tele, config), 1.3 * scale / zoom)
        if tele_scale in tried:
            continue
        tried.add(tele_scale)
        small_tele, tele_up = resized(tele, tele_scale)
        tele_points, tele_descriptors = features(small_tele, config.max_keypoints)
        pairs = mutual_matches(tele_descriptors, wide_descriptors, config.match_ratio)
        yield Matches(
            transform(tele_up, tele_points[pairs[0]]), transform(wide_up, wide_points[pairs[1]])
        )


def _agreement(matches: Matches, inlier_px: float) -> _Found | None:
    num_matches = len(matches.tele)
    if num_matches < 5:
        return None
    homography, agree = cv2.findHomography(
        matches.tele, matches.wide, cv2.USAC_MAGSAC, inlier_px, maxIters=10_000
    )
    # A determinant below zero is a mirror image.
    if homography is None or np.linalg.det(homography) < 1e-12:
        return None
    inliers = agree.ravel() > 0
    return _Found(homography, Matches(matches.tele[inliers], matches.wide[inliers]), num_matches)


def _refitted(
    wide: Grey, tele: Grey, found: _Found, config: RegistrationConfig
) -> tuple[Homography, float]:
    """The homography made exact by the overlap's flow where that helps, and its correlation."""
    homography = found.homography
    for scale in REFIT_SCALES:
        overlap = cut_overlap(wide, tele, homography, config.working_px, scale)
        step = remaining_homography(overlap)
        if step is None:
            break
        moved = overlap.to_wide @ step @ np.linalg.inv(overlap.to_wide) @ homography
        near = _distances(moved, found.inliers) < _unit_px(wide, config) * config.inlier_px
        if near.mean() < KEPT_INLIERS:
            break
        homography = moved / moved[2, 2]
    before, after = (_correlation(wide, tele, h, config) for h in (found.homography, homography))
    return (homography, after) if after > before - WORSE_NCC else (found.homography, before)


def _correlation(
    wide: Grey, tele: Grey, homography: Homography, config: RegistrationConfig
) -> float:
    overlap = cut_overlap(wide, tele, homography, config.working_px, 1.0)
    return detail_correlation(overlap.wide, overlap.tele, overlap.inside)


def _distances(homography: Homography, matches: Matches) -> Float64[np.ndarray, "_"]:
    return np.linalg.norm(transform(homography, matches.tele) - matches.wide, axis=1)


_REMEDY = "check that the one shows a part of the other"


def _check_view(view: View, density: float, config: RegistrationConfig) -> None:
    off_turn = abs((view.rotation_deg + 45) % 90 - 45)
    if view.zoom < config.min_zoom and off_turn <= config.max_rotation_deg:
        raise NotRegistered(_no_zoom(view, config))
    _at_least("zoom (tele pixels per wide pixel)", view.zoom, config.min_zoom)
    _at_most("zoom (tele pixels per wide pixel)", view.zoom / density, config.max_zoom)
    _at_most("rotation off a quarter turn, in degrees,", off_turn, config.max_rotation_deg)
    _at_most("anisotropy", view.anisotropy, config.max_anisotropy)
    _at_most("perspective", view.perspective, config.max_perspective)
    _at_least("share of the tele picture inside the wide one", view.overlap, config.min_overlap)


def _no_zoom(view: View, config: RegistrationConfig) -> str:
    """What two pictures are of which the tele one is no denser than the wide one."""
    is_swapped = view.zoom < 1 / config.min_zoom
    what = "the pictures are swapped" if is_swapped else "both pictures show the same view"
    remedy = "give the wide picture first" if is_swapped else "give one of the tele lens"
    return (
        f"{what}: the best guess's zoom (tele pixels per wide pixel) is {view.zoom:.3g}, need at "
        f"least {config.min_zoom:.3g}; check that, and {remedy}"
    )


def _check_evidence(found: Registration, config: RegistrationConfig, unit_px: float) -> None:
    few = found.num_inliers < config.few_inliers
    share = found.num_inliers / found.num_matches
    _at_least("number of matches that agree", found.num_inliers, config.min_inliers)
    _at_least("share of matches that agree", share, config.min_inlier_share)
    _at_least("share of the tele picture that they span", found.spread, config.min_spread)
    error_px, max_error_px = found.reprojection_px, config.max_reprojection_px * unit_px
    _at_most("their median error in wide pixels", error_px, max_error_px)
    min_ncc = config.min_ncc_of_few if few else config.min_ncc
    _at_least(f"correlation of detail with {found.num_inliers} matches", found.ncc, min_ncc)


def _at_least(what: str, got: float | int, limit: float | int) -> None:
    if not got >= limit:
        raise NotRegistered(_refusal(what, got, limit, "at least"))


def _at_most(what: str, got: float | int, limit: float | int) -> None:
    if not got <= limit:
        raise NotRegistered(_refusal(what, got, limit, "at most"))


def _refusal(what: str, got: float | int, limit: float | int, side: str) -> str:
    return (
        f"the tele picture is not found in the wide one: the best guess's {what} is {got:.3g}, "
        f"need {side} {limit:.3g}; {_REMEDY}"
    )
