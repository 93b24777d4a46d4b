"""Figures keep what they show: the right crops, the right cells, a fixed range of colours."""

import numpy as np
import pytest

from sddusr.geometry.box import Box
from sddusr.visualization.canvas import GREEN, RED, heatmap, overlay_mask
from sddusr.visualization.comparison import comparison

BOX = Box(40, 120, 48, 144)


@pytest.fixture
def picture() -> np.ndarray:
    """Flat grey with one noisy patch in the centre box and one outside."""
    hr = np.full((160, 192, 3), 128, np.uint8)
    rng = np.random.default_rng(0)
    for top, left in ((60, 90), (8, 12)):
        hr[top : top + 16, left : left + 16] = rng.integers(256, size=(16, 16, 3))
    return hr


def strip(hr: np.ndarray, box: Box = BOX, **pictures: np.ndarray) -> np.ndarray:
    ref = hr[box.y0 : box.y1, box.x0 : box.x1]
    return comparison(hr[::2, ::2], ref, box, pictures | {"HR": hr}, tile_px=128, crop_px=32)


def test_comparison_shows_the_patches_with_detail(picture):
    drawn = strip(picture)
    for top, left, crops in ((60, 90, 2), (8, 12, 1)):  # Ref sees only the one in the centre
        patch = picture[top : top + 16, left : left + 16].repeat(4, axis=0).repeat(4, axis=1)
        assert count_of(patch[8:-8, 8:-8], drawn) == crops


def test_comparison_frames_one_crop_in_each_region(picture):
    drawn = strip(picture)
    for color in (RED, GREEN):
        assert (drawn == color).all(axis=2).any()


def test_comparison_gains_a_column_for_each_picture(picture):
    one, two = strip(picture), strip(picture, ours=picture)
    assert two.shape[1] - one.shape[1] == 128 + 8
    assert two.shape[0] == one.shape[0]


@pytest.mark.parametrize("box", [Box(0, 160, 0, 192), Box(2, 14, 3, 19), Box(0, 40, 0, 192)])
def test_comparison_takes_any_box(picture, box):
    assert strip(picture, box).dtype == np.uint8


def test_long_labels_stay_inside_their_column(picture):
    label = "a method with a very long name of its own, at step 250000"
    drawn = strip(picture, **{label: picture})
    gap = drawn[:34, 2 * 136 : 2 * 136 + 8]
    assert (gap == 255).all()
    assert (drawn[:34, 2 * 136 + 8 : 3 * 136] < 128).any()


def test_heatmap_has_one_color_a_value_over_a_fixed_range():
    colors = heatmap(np.array([[-1.0, 0.0, 0.5, 1.0, 2.0]]), zoom=4)
    assert colors.shape == (4, 20, 3)
    cells = colors[::4, ::4][0].tolist()
    assert cells[0] == cells[1] != cells[2] != cells[3] == cells[4]
    assert sum(cells[1]) < sum(cells[2]) < sum(cells[3])


def test_overlay_leaves_kept_cells_and_tints_the_rest(picture):
    mask = np.zeros((40, 48), bool)
    mask[3:20, 5:9] = True
    drawn = overlay_mask(picture, mask)
    kept = mask.repeat(4, axis=0).repeat(4, axis=1)
    assert np.array_equal(drawn[kept], picture[kept])
    assert (drawn[~kept] != picture[~kept]).any(axis=1).all()
    assert np.array_equal(overlay_mask(picture, mask.astype(np.float32)), drawn)


def count_of(patch: np.ndarray, drawn: np.ndarray) -> int:
    """How often the patch occurs in the drawing, pixel for pixel."""
    views = np.lib.stride_tricks.sliding_window_view(drawn[..., 0], patch.shape[:2])
    starts = np.argwhere(views[..., 0, 0] == patch[0, 0, 0])
    height, width = patch.shape[:2]
    return sum(np.array_equal(drawn[y : y + height, x : x + width], patch) for y, x in starts)
