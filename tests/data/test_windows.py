import functools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sddusr.config import DataConfig
from sddusr.data.crops import cut_sample
from sddusr.data.schema import from_record, max_crop_px, to_record
from sddusr.data.windows import cut_windows, window_boxes
from sddusr.geometry.box import Box, crop, snap_box, to_lr
from sddusr.types import Triplet
from tests.conftest import make_triplet

WINDOW_PX, CROP_PX, SHIFT_PX = 32, 16, (4, 12)
"""As a window of 256 is to a crop of 128 and a shift of 32 to 96."""

BOXES = st.sampled_from(
    [Box(33, 121, 38, 110), Box(0, 64, 0, 72), Box(61, 110, 96, 160), Box(8, 152, 12, 156)]
)


@functools.cache
def rows_of(box: Box, margin_px: int | None = None) -> tuple[Triplet, list[Triplet]]:
    triplet = make_triplet("t", lr_shape=(80, 81), box=box, seed=3)
    return triplet, list(cut_windows(triplet, WINDOW_PX, WINDOW_PX // 2, margin_px))


def halved(picture: np.ndarray) -> np.ndarray:
    size = (picture.shape[1] // 2, picture.shape[0] // 2)
    return cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)


def shown_twice(fine: np.ndarray, coarse: np.ndarray) -> bool:
    return bool(np.abs(halved(fine).astype(int) - coarse).max() <= 1)


@settings(max_examples=8)
@given(BOXES, st.sampled_from([None, 0, 12]))
def test_a_row_shows_a_window_and_what_ref_shows_nearest_to_it(box, margin_px):
    triplet, rows = rows_of(box, margin_px)
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        window = Box(*row.provenance["window"])
        np.testing.assert_array_equal(row.hr, crop(triplet.hr, window))
        assert shown_twice(row.hr, row.lr)
        np.testing.assert_array_equal(
            row.detail, crop(triplet.detail, Box(*(e // 4 for e in window)))
        )
        y0, y1, x0, x1 = row.center_box
        there = Box(y0 + window.y0, y1 + window.y0, x0 + window.x0, x1 + window.x0)
        np.testing.assert_array_equal(row.ref, crop(triplet.hr, there))
        source = crop(row.lr, to_lr(row.center_box)) if row.lr_center is None else row.lr_center
        assert shown_twice(row.ref, source)
        assert max(row.ref.shape[:2]) <= 2 * WINDOW_PX


def misses(starts: range, candidates: range) -> list[int]:
    """For each start of a crop, by how much its best centre crop misses the wanted shift."""
    low, high = SHIFT_PX
    return [min(max(low - abs(c - s), abs(c - s) - high, 0) for c in candidates) for s in starts]


@given(BOXES, st.sampled_from([None, 0, 12, 40]))
def test_a_row_allows_every_shift_that_the_whole_picture_allows(box, margin_px):
    whole_box = to_lr(snap_box(box))
    for row in rows_of(box, margin_px)[1]:
        window, center = to_lr(Box(*row.provenance["window"])), to_lr(row.center_box)
        for axis in (0, 2):
            start, end = window[axis], window[axis + 1]
            first, last = center[axis] + start, center[axis + 1] + start
            crops = range(start, end - CROP_PX + 1, 2)
            everywhere = range(whole_box[axis], whole_box[axis + 1] - CROP_PX + 1, 2)
            assert misses(crops, range(first, last - CROP_PX + 1, 2)) == misses(crops, everywhere)


@given(BOXES)
def test_a_margin_as_wide_as_the_shift_leaves_no_crop_without_a_stand_in(box):
    for row in rows_of(box, SHIFT_PX[1])[1]:
        center = to_lr(row.center_box)
        for axis, length in ((0, row.lr.shape[0]), (2, row.lr.shape[1])):
            crops = range(0, length - CROP_PX + 1, 2)
            candidates = range(center[axis], center[axis + 1] - CROP_PX + 1, 2)
            assert not any(misses(crops, candidates))


def test_windows_cover_the_margin_and_no_more():
    seen = np.zeros((160, 162), int)
    for row in rows_of(Box(60, 100, 64, 104), 12)[1]:
        crop(seen, Box(*row.provenance["window"]))[:] += 1
    expected = np.zeros_like(seen)
    expected[60 - 24 : 100 + 24, 64 - 24 : 104 + 24] = 1
    np.testing.assert_array_equal(seen > 0, expected > 0)
    boxes = window_boxes((80, 81), WINDOW_PX, 16)
    assert boxes == window_boxes((80, 81), WINDOW_PX, 16, Box(0, 80, 0, 81))


@settings(max_examples=30)
@given(BOXES, st.integers(0, 10**6))
def test_samples_of_rows_show_the_same_place_in_all_members(box, seed):
    config = DataConfig(crop_px=CROP_PX, shift_px=SHIFT_PX)
    rng = np.random.default_rng(seed)
    rows = rows_of(box)[1]
    sample = cut_sample(rows[rng.integers(len(rows))], config, rng)
    assert shown_twice(sample.hr, sample.lr)
    assert shown_twice(sample.ref, sample.lr_center)


def test_rows_come_back_from_their_records_as_they_were():
    rows = rows_of(Box(8, 152, 12, 156))[1]
    assert {row.lr_center is None for row in rows} == {True, False}
    for row in rows:
        back = from_record(to_record(row))
        assert back.center_box == row.center_box
        np.testing.assert_array_equal(back.ref, row.ref)
        if row.lr_center is None:
            assert back.lr_center is None
        else:
            np.testing.assert_array_equal(back.lr_center, row.lr_center)
        assert max_crop_px(back) == min(
            *row.lr.shape[:2], row.ref.shape[0] // 2, row.ref.shape[1] // 2
        )


@pytest.mark.parametrize("box", [Box(1, 33, 0, 32), Box(0, 36, 0, 32), Box(0, 32, 0, 64)])
def test_a_centre_that_does_not_fit_its_box_is_refused(box):
    row = next(row for row in rows_of(Box(33, 121, 38, 110))[1] if row.lr_center is not None)
    row = row._replace(ref=np.zeros((box.height, box.width, 3), np.uint8), center_box=box)
    with pytest.raises(ValueError, match=r"centre box is .*, need multiples of 4 and 2 times the"):
        to_record(row._replace(lr_center=np.zeros((16, 16, 3), np.uint8)))
