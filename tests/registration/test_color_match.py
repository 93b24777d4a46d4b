import json

import numpy as np
import pytest

from sddusr.registration.color_match import ColorConfig, ColorMap, fit_color
from tests.conftest import textured

MATRIX = np.array([[0.9, 0.08, -0.03], [-0.05, 1.1, 0.04], [0.02, -0.06, 0.85]])
OFFSET = np.array([0.03, -0.02, 0.05])
TRUTH = ColorMap(MATRIX, OFFSET, "matrix")


def colorful(seed: int = 0, depth: type = np.uint8) -> np.ndarray:
    picture = textured(160, 192, seed).astype(np.float32) * 0.6 + 50
    return (picture * (np.iinfo(depth).max // 255)).astype(depth)


def everywhere(picture: np.ndarray) -> np.ndarray:
    return np.ones(picture.shape[:2], bool)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_mix_of_channels_is_found(depth):
    ref = colorful(depth=depth)
    found = fit_color(ref, TRUTH.apply(ref), everywhere(ref))
    assert found.kind == "matrix"
    assert not found.why
    np.testing.assert_allclose(found.matrix, MATRIX, atol=0.03)
    np.testing.assert_allclose(found.offset, OFFSET, atol=0.02)
    assert found.error_after < 0.1 * found.error_before


def test_places_that_differ_do_not_count():
    ref = colorful()
    wide = TRUTH.apply(ref)
    wide[:60, :60] = colorful(1)[:60, :60]
    found = fit_color(ref, wide, everywhere(ref))
    np.testing.assert_allclose(found.matrix, MATRIX, atol=0.05)


def test_clipped_and_invalid_pixels_do_not_count():
    ref = colorful()
    wide, valid = TRUTH.apply(ref), everywhere(ref)
    wide[::3], ref[1::6] = 255, 0
    valid[:, :70], wide[:, :70] = False, 77
    found = fit_color(ref, wide, valid)
    np.testing.assert_allclose(found.matrix, MATRIX, atol=0.05)


def test_a_blurred_and_displaced_partner_gives_the_same_colors():
    ref = colorful()
    wide = np.roll(TRUTH.apply(ref), (2, 2), (0, 1))
    found = fit_color(ref, wide, everywhere(ref))
    assert np.abs(found.apply(ref).mean((0, 1)) - wide.mean((0, 1))).max() < 1


def test_a_grey_scene_gives_no_wild_matrix():
    grey = np.repeat(colorful()[..., :1], 3, axis=2)
    noise = np.random.default_rng(0).normal(0, 2, (2, *grey.shape))
    ref = np.clip(grey + noise[0], 0, 255).astype(np.uint8)
    wide = np.clip(0.8 * grey + noise[1], 0, 255).astype(np.uint8)
    found = fit_color(ref, wide, everywhere(ref))
    apart = found.matrix - 0.8 * np.eye(3)
    assert np.abs(apart).max() < 0.15
    assert np.linalg.cond(found.matrix) < 1.5


def test_a_matrix_beyond_the_limit_gives_way_to_the_channels():
    ref = colorful()
    strict = ColorConfig(max_condition=1.05)
    found = fit_color(ref, TRUTH.apply(ref), everywhere(ref), strict)
    assert found.kind == "channels"
    assert found.why.startswith("condition 1.")
    assert np.count_nonzero(found.matrix) == 3
    assert found.error_after < found.error_before


def test_a_negative_is_not_turned_into_a_positive():
    ref = colorful()
    found = fit_color(ref, 255 - ref, everywhere(ref))
    np.testing.assert_array_equal(found.matrix, np.eye(3))
    assert "times a channel" in found.why


def test_too_little_to_compare_changes_nothing():
    ref = colorful()
    found = fit_color(ref, TRUTH.apply(ref), np.zeros(ref.shape[:2], bool))
    assert (found.kind, found.why) == ("none", "0 cells to compare, need 12")
    np.testing.assert_array_equal(found.apply(ref), ref)


def test_kinds_are_kept_to():
    ref = colorful()
    wide = TRUTH.apply(ref)
    channels = fit_color(ref, wide, everywhere(ref), ColorConfig(kind="channels"))
    assert channels.kind == "channels"
    assert np.count_nonzero(channels.matrix) == 3
    assert fit_color(ref, wide, everywhere(ref), ColorConfig(kind="none")).kind == "none"


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_the_inverse_undoes_the_map(depth):
    ref = colorful(depth=depth)
    back = TRUTH.inverse().apply(TRUTH.apply(ref))
    assert np.abs(back.astype(int) - ref).max() <= 1


def test_a_record_holds_the_whole_map():
    found = fit_color(colorful(), TRUTH.apply(colorful()), everywhere(colorful()))
    record = json.loads(json.dumps(found.record()))
    again = ColorMap(**record | {name: np.array(record[name]) for name in ("matrix", "offset")})
    np.testing.assert_array_equal(again.apply(colorful()), found.apply(colorful()))
