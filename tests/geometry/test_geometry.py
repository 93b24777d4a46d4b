import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sddusr.data.detail import detail_map, detail_quantiles, image_threshold, mask_label
from sddusr.data.windows import cut_windows, window_boxes
from sddusr.geometry.box import Box, align_ref, centered, check_box, crop, snap_box, to_lr, whole
from sddusr.geometry.homography import box_inside, corner_points, resizing, transform
from tests.conftest import make_triplet, textured

BOXES = st.builds(
    lambda y, x, height, width: Box(y, y + height, x, x + width),
    *(st.integers(0, 60), st.integers(0, 60), st.integers(7, 60), st.integers(7, 60)),
)


@given(BOXES)
def test_a_snapped_box_is_the_largest_on_the_grid_inside(box):
    snapped = snap_box(box)
    assert all(edge % 4 == 0 for edge in snapped)
    assert all(edge % 2 == 0 for edge in to_lr(snapped))
    assert box.y0 <= snapped.y0 < box.y0 + 4
    assert box.x0 <= snapped.x0 < box.x0 + 4
    assert box.y1 - 4 < snapped.y1 <= box.y1
    assert box.x1 - 4 < snapped.x1 <= box.x1
    assert snap_box(snapped) == snapped


@given(BOXES)
def test_ref_is_trimmed_by_what_its_box_lost(box):
    hr = np.arange(120 * 120 * 3, dtype=np.uint32).astype(np.uint8).reshape(120, 120, 3)
    aligned = align_ref(crop(hr, box), box)
    np.testing.assert_array_equal(aligned.ref, crop(hr, aligned.box))


def test_bad_boxes_are_refused():
    with pytest.raises(ValueError, match="no whole cell"):
        snap_box(Box(1, 7, 0, 40))
    with pytest.raises(ValueError, match="Ref is 8x8, need the 8x12"):
        align_ref(np.zeros((8, 8, 3), np.uint8), Box(0, 8, 0, 12))
    for box in (
        Box(-1, 8, 0, 8),
        Box(0, 8, 0, 21),
        Box(8, 8, 0, 8),
        Box(9, 8, 0, 8),
        Box(0, 6, 0, 9),
    ):
        with pytest.raises(ValueError, match=r"x: centre box is .* inside HR's 16x20"):
            check_box(box, (16, 20, 3), "x")


def test_a_centered_box_is_centered():
    assert centered(10, 20, whole(40, 60)) == Box(15, 25, 20, 40)
    assert centered(40, 60, whole(40, 60)) == whole(40, 60)


QUADS = st.builds(
    lambda y, x, size, angle, stretch: (
        np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        * [size * stretch, size]
        @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        + [x, y]
    ),
    *(st.floats(10, 30), st.floats(10, 30), st.floats(3, 25), st.floats(-0.8, 0.8)),
    st.floats(0.5, 2),
)


def holds(quad: np.ndarray, box: Box) -> bool:
    pixels = np.array([[x, y] for x in (box.x0, box.x1 - 1) for y in (box.y0, box.y1 - 1)])
    sides = np.roll(quad, -1, axis=0) - quad
    apart = pixels[:, None] - quad
    return bool((sides[:, 0] * apart[..., 1] - sides[:, 1] * apart[..., 0] >= -1e-9).all())


@settings(max_examples=25)
@given(QUADS)
def test_the_box_inside_a_tilted_view_is_the_largest_on_the_grid(quad):
    frame = whole(38, 44)
    boxes = [
        Box(y0, y1, x0, x1)
        for y0 in range(0, 37, 4)
        for y1 in range(y0 + 4, 39, 4)
        for x0 in range(0, 41, 4)
        for x1 in range(x0 + 4, 45, 4)
        if holds(quad, Box(y0, y1, x0, x1))
    ]
    found = box_inside(quad, frame)
    if not boxes:
        assert found is None
        return
    assert found in boxes
    assert found.height * found.width == max(box.height * box.width for box in boxes)


def test_a_view_of_whole_cells_is_its_own_box():
    quad = corner_points((24, 16)) + np.array([8, 4])
    assert box_inside(quad, whole(40, 40)) == Box(4, 28, 8, 24)
    assert box_inside(quad, whole(26, 40)) == Box(4, 24, 8, 24)
    assert box_inside(quad, Box(30, 40, 0, 40)) is None


def test_resized_pictures_share_their_outer_corner():
    ramp = np.tile(np.arange(32, dtype=np.float32), (8, 1))
    half = cv2.resize(ramp, (16, 8), interpolation=cv2.INTER_AREA)
    points = np.stack([np.arange(16), np.zeros(16)], 1).astype(float)
    np.testing.assert_allclose(transform(resizing(1.0, 2.0), points)[:, 0], half[0])


def test_detail_is_where_the_wide_lens_sees_less():
    hr = np.full((64, 64, 3), 90, np.uint8)
    hr[:32, :32] = np.random.default_rng(0).integers(0, 255, (32, 32, 3))
    detail = detail_map(hr)
    assert detail.shape == (16, 16)
    assert detail[:8, :8].min() > 0.1
    assert detail[10:, 10:].max() < 1e-6
    assert (mask_label(detail, 0.05)[:8, :8] == 1).all()


def test_detail_is_the_written_formula():
    """By another library: Pillow's antialiased bicubic, down and up."""
    hr = textured(48, 64, 3)
    lost = np.zeros((48, 64))
    for channel in np.moveaxis(hr.astype(np.float32) / 255, 2, 0):
        down = Image.fromarray(channel).resize((32, 24), Image.Resampling.BICUBIC)
        up = np.asarray(down.resize((64, 48), Image.Resampling.BICUBIC))
        lost += np.abs(channel - up)
    expected = lost.reshape(12, 4, 16, 4).mean((1, 3))
    np.testing.assert_allclose(detail_map(hr), expected, atol=2e-5)


def test_a_flat_picture_is_labelled_zero():
    detail = detail_map(np.full((32, 32, 3), 50, np.uint8))
    quantiles = detail_quantiles(detail)
    assert not mask_label(detail, float(np.quantile(detail, 0.5))).any()
    assert not mask_label(detail, image_threshold(quantiles, 0.5)).any()


def test_half_of_the_cells_exceed_the_median():
    detail = make_triplet(lr_shape=(64, 64)).detail
    assert 0.48 < mask_label(detail, float(np.median(detail))).mean() <= 0.5


@given(st.integers(4, 90), st.integers(4, 90), st.sampled_from([(16, 8), (32, 32), (24, 10)]))
def test_windows_cover_the_picture_at_even_offsets(height, width, sizes):
    window_px, stride_px = sizes
    seen = np.zeros((2 * height, 2 * width), int)
    boxes = window_boxes((height, width), window_px, stride_px)
    assert len(set(boxes)) == len(boxes)
    for box in boxes:
        assert all(edge % 4 == 0 for edge in box)
        assert box.height == 2 * min(window_px, height - height % 2)
        crop(seen, box)[:] += 1
    assert (seen[: height // 2 * 4, : width // 2 * 4] > 0).all()


def test_half_a_window_of_stride_holds_every_crop_of_half_a_window():
    boxes = [to_lr(box) for box in window_boxes((100, 88), 32, 16)]
    for y in range(0, 100 - 16 + 1, 2):
        for x in range(0, 88 - 16 + 1, 2):
            assert any(b.y0 <= y and y + 16 <= b.y1 and b.x0 <= x and x + 16 <= b.x1 for b in boxes)


@settings(max_examples=10, deadline=None)
@given(st.integers(20, 60), st.integers(20, 60))
def test_members_of_a_window_show_the_same_place(height, width):
    triplet = make_triplet("t", lr_shape=(height, width))
    windows = list(cut_windows(triplet, 16, 8))
    assert len({window.id for window in windows}) == len(windows)
    for window in windows:
        half = cv2.resize(np.ascontiguousarray(window.hr), (16, 16), interpolation=cv2.INTER_AREA)
        assert np.abs(half.astype(int) - window.lr).max() <= 1
        np.testing.assert_array_equal(window.ref, window.hr)
        y0, _, x0, _ = window.provenance["window"]
        np.testing.assert_array_equal(
            window.detail, triplet.detail[y0 // 4 : y0 // 4 + 8, x0 // 4 : x0 // 4 + 8]
        )
        assert window.center_box == Box(0, 32, 0, 32)
