"""One training sample: a crop, its centre crop, and Ref at the same place as that."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from sddusr.config import LR_PER_CELL, SCALE, DataConfig
from sddusr.data.detail import image_threshold, mask_label
from sddusr.data.ref_faults import apply_fault, draw_fault
from sddusr.geometry.box import Box, align_ref, crop, to_lr
from sddusr.types import Triplet


class Sample(NamedTuple):
    """What the network sees of one row, before it is stacked."""

    lr: UInt8[np.ndarray, "s s 3"]
    lr_center: UInt8[np.ndarray, "s s 3"]
    ref: UInt8[np.ndarray, "2*s 2*s 3"]
    hr: UInt8[np.ndarray, "2*s 2*s 3"]
    mask_label: Float32[np.ndarray, "s//2 s//2"]
    center_offset: tuple[int, int] = (0, 0)
    """(y, x) from the crop's first pixel to its centre crop's, HR pixels."""
    has_ref: bool = True


class Span(NamedTuple):
    """Crop and centre crop along one axis, in LR pixels; both even."""

    crop: int
    center: int


def draw_span(
    length_px: int,
    center_px: tuple[int, int],
    config: DataConfig,
    rng: np.random.Generator,
    is_far: bool = False,
) -> Span:
    """Draw where a crop starts, and its centre crop at the wanted distance from it.

    Where no centre crop inside `center_px` has a distance within `shift_px` (a small window, or a
    crop far from the centre box), the nearest feasible distance is taken; the farthest one where
    `is_far`.

    Args:
        length_px: length of the LR picture along this axis.
        center_px: start and end of the snapped centre box along this axis, in LR pixels; beside
            the picture (negative, or beyond its length) for a window that is.
    """
    start = int(rng.integers(0, (length_px - config.crop_px) // LR_PER_CELL + 1)) * LR_PER_CELL
    candidates = np.arange(center_px[0], center_px[1] - config.crop_px + 1, LR_PER_CELL)
    distance = np.abs(candidates - start)
    low, high = (length_px, length_px) if is_far else config.shift_px
    violation = np.maximum(np.maximum(low - distance, distance - high), 0)
    return Span(start, int(rng.choice(_where_least(candidates, violation))))


def _where_least(
    values: Int64[np.ndarray, "n"], cost: Int64[np.ndarray, "n"]
) -> Int64[np.ndarray, "m"]:
    return values[cost == cost.min()]


def cut_sample(triplet: Triplet, config: DataConfig, rng: np.random.Generator) -> Sample:
    """Cut one training sample at even LR offsets, then flip and turn all of it alike.

    Raises:
        ValueError: the picture or its centre box is smaller than the crop.
    """
    ref, box = align_ref(triplet.ref, triplet.center_box)
    center = to_lr(box)
    source = crop(triplet.lr, center) if triplet.lr_center is None else triplet.lr_center
    _check_fits(triplet, center, config.crop_px)
    height, width = triplet.lr.shape[:2]
    # A generator of its own: crops stay what they were before there was this one.
    others = rng.spawn(1)[0]
    is_far = config.far_share > 0 and others.random() < config.far_share
    y = draw_span(height, (center.y0, center.y1), config, rng, is_far)
    x = draw_span(width, (center.x0, center.x1), config, rng, is_far)
    here = _square(y.crop, x.crop, config.crop_px)
    inside = _square(y.center - center.y0, x.center - center.x0, config.crop_px)
    sample = Sample(
        lr=crop(triplet.lr, here),
        lr_center=crop(source, inside),
        ref=crop(ref, _scaled(inside)),
        hr=crop(triplet.hr, _scaled(here)),
        mask_label=_label(triplet, here, config),
        center_offset=(SCALE * (y.center - y.crop), SCALE * (x.center - x.crop)),
    )
    sample = _augment(sample, rng) if config.augment else sample
    return _change_appearance(sample, triplet, config, others)


def _change_appearance(
    sample: Sample, triplet: Triplet, config: DataConfig, rng: np.random.Generator
) -> Sample:
    """Other colours of all pictures, and what Ref alone suffers."""
    if rng.random() < config.color_augment:
        matrix = draw_colors(rng)
        colored = {
            name: cv2.transform(np.ascontiguousarray(getattr(sample, name)), matrix)
            for name in ("lr", "lr_center", "ref", "hr")
        }
        sample = sample._replace(**colored)
    kind = draw_fault(config.refs, rng)
    ref, has_ref = apply_fault(kind, sample.ref, sample.lr_center, triplet.hr, config.refs, rng)
    return sample._replace(ref=ref, has_ref=has_ref)


GAIN, SATURATION = (0.8, 1.25), (0.5, 1.8)
PERMUTED_SHARE = 0.5


def draw_colors(rng: np.random.Generator) -> Float32[np.ndarray, "3 3"]:
    """A map of colours: permuted channels, gains, more or less saturation; grey stays near grey."""
    order = rng.permutation(3) if rng.random() < PERMUTED_SHARE else np.arange(3)
    saturation = rng.uniform(*SATURATION)
    mixed = saturation * np.eye(3) + (1 - saturation) / 3
    return (np.diag(rng.uniform(*GAIN, 3)) @ mixed)[:, order].astype(np.float32)


def _check_fits(triplet: Triplet, center: Box, crop_px: int) -> None:
    height, width = triplet.lr.shape[:2]
    if min(height, width, center.height, center.width) < crop_px:
        raise ValueError(
            f"{triplet.id}: LR is {height}x{width} with a centre of {center.height}x"
            f"{center.width}, need {crop_px}x{crop_px} or more; lower --data.crop-px"
        )


def _square(y: int, x: int, side: int) -> Box:
    return Box(y, y + side, x, x + side)


def _scaled(box: Box) -> Box:
    return Box(*(SCALE * edge for edge in box))


def _label(triplet: Triplet, here: Box, config: DataConfig) -> Float32[np.ndarray, "cells cells"]:
    detail = crop(triplet.detail, Box(*(edge // LR_PER_CELL for edge in here)))
    if config.mask_scope == "image":
        threshold = image_threshold(triplet.detail_quantiles, config.mask_quantile)
    else:
        threshold = float(np.quantile(detail, config.mask_quantile))
    return mask_label(detail, threshold)


def _augment(sample: Sample, rng: np.random.Generator) -> Sample:
    """One of the eight symmetries of a square, the same for every member."""
    flip, turns = bool(rng.integers(2)), int(rng.integers(4))
    dy, dx = sample.center_offset
    if flip:
        dy = -dy
    for _ in range(turns):
        dy, dx = -dx, dy
    members = {
        name: np.rot90(part[::-1] if flip else part, turns)
        for name, part in sample._asdict().items()
        if isinstance(part, np.ndarray)
    }
    return sample._replace(**members, center_offset=(dy, dx))
