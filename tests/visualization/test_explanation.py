"""Explanations show what they say: the right places, the right cells, the right colours."""

import numpy as np
import pytest

from sddusr.geometry.box import Box
from sddusr.inference import Matches
from sddusr.visualization.canvas import BLUE, ORANGE, checkerboard, draw_outlines
from sddusr.visualization.explanation import (
    Evidence,
    kept_share,
    position_colors,
    sheet,
    source_colors,
    tint,
)

BOX = Box(40, 80, 48, 112)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def gray(height: int, width: int, value: int) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def matches(query_mask: np.ndarray | None = None, key_mask: np.ndarray | None = None) -> Matches:
    """Of a wide picture of 60x80: every cell of the centre finds itself, all others the first."""
    key_index = np.zeros((30, 40), np.int64)
    key_index[10:20, 12:28] = np.arange(160).reshape(10, 16)
    confidence = np.linspace(0, 1, 1200, dtype=np.float32).reshape(30, 40)
    return Matches(confidence, query_mask, key_mask, key_index, (10, 16))


def evidence(**changes) -> Evidence:
    plain = Evidence(
        wide=gray(60, 80, 200),
        ref=gray(40, 64, 90),
        valid=np.ones((40, 64), bool),
        box=BOX,
        outline=np.array([[18.0, 22], [17, 58], [42, 57], [41, 23]]),
        matches=matches(np.ones((30, 40), bool), np.ones((10, 16), bool)),
        lines=["zoom 2.00", "one of two matches agrees"],
    )
    return plain._replace(**changes)


def test_each_place_of_the_centre_has_a_color_of_its_own():
    colors = position_colors(9, 12).reshape(-1, 3)
    assert len(np.unique(colors, axis=0)) == len(colors)


def test_colors_change_little_between_neighbours():
    colors = position_colors(90, 120).astype(int)
    middle = colors[40:50, 55:65]
    assert np.abs(np.diff(colors[:30], axis=1)).max() <= 16
    assert middle.min() > 180  # pale, where all directions meet


def test_a_cell_has_the_color_of_its_key():
    key_index = np.array([[5, 0, 11], [7, 7, 3]])
    colors = source_colors(key_index, (3, 4))
    assert np.array_equal(colors[0, 2], position_colors(3, 4)[2, 3])
    assert np.array_equal(colors[1, 0], position_colors(3, 4)[1, 3])


def test_the_centre_taken_from_itself_looks_like_the_legend():
    found = matches()
    colors = source_colors(found.key_index, found.key_shape)
    assert np.array_equal(colors[10:20, 12:28], position_colors(10, 16))


def test_dropped_cells_are_gray_and_kept_ones_are_not():
    kept = np.zeros((3, 4), bool)
    kept[1, 2] = True
    drawn = tint(noise(30, 40), position_colors(3, 4), kept).astype(int)
    spread = drawn.max(axis=2) - drawn.min(axis=2)
    inside = kept.repeat(10, axis=0).repeat(10, axis=1)
    assert (spread[~inside] == 0).all()
    assert (spread[inside] > 0).all()


def test_tint_keeps_the_order_of_brightness():
    colors = np.broadcast_to(position_colors(1, 2)[:, :1], (1, 1, 3))
    dark, bright = tint(gray(4, 4, 20), colors), tint(gray(4, 4, 220), colors)
    assert dark.max() < bright.max()


def test_checkerboard_shows_both_in_turn_and_the_first_where_the_second_is_not_valid():
    first, second = gray(40, 80, 10), gray(40, 80, 240)
    valid = np.ones((40, 80), bool)
    valid[:, 60:] = False
    drawn = checkerboard(first, second, valid, num_squares=8)[..., 0]
    assert drawn[5, 5] == drawn[15, 15] == 10
    assert drawn[5, 15] == drawn[15, 5] == 240
    assert (drawn[:, 60:] == 10).all()
    assert (drawn == 240).mean() == pytest.approx(3 / 8)


def test_outlines_go_through_their_corners_and_leave_the_picture_alone():
    picture = gray(60, 80, 0)
    corners = np.array([[10.0, 20], [10, 60], [40, 60], [40, 20]])
    drawn = draw_outlines(picture, [(corners, BLUE)])
    assert tuple(drawn[10, 40]) == tuple(drawn[40, 40]) == tuple(drawn[25, 20]) == BLUE
    assert not drawn[25, 40].any()
    assert not picture.any()


@pytest.mark.parametrize(
    ("mask", "share"), [(None, 1.0), (np.eye(4, dtype=bool), 0.25), (np.zeros((2, 2), bool), 0.0)]
)
def test_kept_share_counts_the_cells_that_take_part(mask, share):
    assert kept_share(mask) == share


def test_sheet_marks_the_tele_picture_and_the_box_where_they_are():
    drawn = sheet(evidence(), width_px=840)
    shown = drawn[34 : 34 + 306, 8 : 8 + 408].astype(int)  # the first panel, 5.1 times as large
    for color, middle_y, middle_x in ((ORANGE, 17.5, 40), (BLUE, 20, 40), (BLUE, 30, 24)):
        y, x = round(5.1 * middle_y), round(5.1 * middle_x)
        around = shown[y - 3 : y + 4, x - 3 : x + 4].reshape(-1, 3)
        assert (np.abs(around - color).max(axis=1) < 60).any()


@pytest.mark.parametrize("size", [(60, 80), (61, 79), (80, 60), (30, 200)])
def test_sheet_takes_any_shape_of_picture(size):
    grid = tuple((side + 1) // 2 for side in size)
    found = Matches(
        confidence=np.zeros(grid, np.float32),
        query_mask=None,
        key_mask=None,
        key_index=np.zeros(grid, np.int64),
        key_shape=(10, 10),
    )
    box = Box(8, 48, 8, 48)
    drawn = sheet(
        evidence(
            wide=noise(*size),
            ref=noise(40, 40),
            valid=np.ones((40, 40), bool),
            box=box,
            outline=None,
            matches=found,
            lines=[],
        ),
        width_px=500,
    )
    assert drawn.shape[1] == 500


def test_sheet_trims_a_box_that_is_off_the_grid():
    drawn = sheet(
        evidence(ref=gray(43, 67, 90), valid=np.ones((43, 67), bool), box=Box(38, 81, 46, 113)),
        width_px=500,
    )
    assert drawn.shape[1] == 500


def test_sheet_says_what_share_was_left_out():
    half = np.zeros((30, 40), bool)
    half[:15] = True
    few, many = (
        sheet(evidence(matches=matches(mask, np.ones((10, 16), bool))), width_px=500)
        for mask in (half, np.ones((30, 40), bool))
    )
    assert few.shape == many.shape
    assert (few != many).any()
