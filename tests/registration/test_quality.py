"""What a tele picture lacks is measured and said."""

import cv2
import numpy as np
import pytest
import skimage

from sddusr.geometry.box import Box, crop
from sddusr.registration.quality import (
    LEAST_ADDED,
    MAX_BLOCKS,
    measure_blocks,
    measure_quality,
)
from sddusr.registration.residual import enlarged_center

BOX = Box(100, 300, 160, 440)


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    hr = np.ascontiguousarray(skimage.data.coffee()[:400, :600])
    lr = cv2.resize(hr, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(crop(hr, BOX)), enlarged_center(lr, BOX)


def everywhere(picture: np.ndarray) -> np.ndarray:
    return np.ones(picture.shape[:2], bool)


def test_a_good_tele_picture_has_nothing_said_of_it(pair):
    ref, center = pair
    found = measure_quality(ref, center, everywhere(ref), ref)
    assert found.reasons() == []
    assert found.sharpness > 1.5


def test_defocus_noise_other_objects_and_bars_are_told(pair):
    ref, center = pair
    shown, rng = everywhere(ref), np.random.default_rng(0)

    def reasons(picture: np.ndarray) -> str:
        return "; ".join(measure_quality(picture, center, shown, picture).reasons())

    assert "no sharper" in reasons(cv2.GaussianBlur(ref, (0, 0), 2))
    assert "noisy" in reasons(np.clip(ref + rng.normal(0, 30, ref.shape), 0, 255).astype(np.uint8))
    other = ref.copy()
    other[50:130, 60:160] = 255 - other[50:130, 60:160]
    assert "differs" in reasons(other)
    shown[:40] = False
    assert "shows nothing" in reasons(ref)


def test_the_edge_of_what_shows_nothing_is_no_detail(pair):
    """Black beside the smoothest part of the picture counted as its noise, so that a sharp tele
    picture was left out as soft."""
    ref, center = (x.copy() for x in pair)
    ref[:, 180:] = center[:, 180:] = 120
    clean = measure_quality(ref, center, everywhere(ref), ref)
    shown = everywhere(ref)
    shown[:, 190::40] = shown[:, 191::40] = shown[:100, 250:] = False
    cut_out = np.where(shown[..., None], ref, 0).astype(np.uint8)
    found = measure_quality(cut_out, center, shown, cut_out)
    assert found.sharpness == pytest.approx(clean.sharpness, rel=0.05)
    assert found.differing == pytest.approx(clean.differing, abs=0.01)
    assert found.empty == pytest.approx(1 - shown.mean())
    assert not found.is_useless


def test_a_digital_zoom_adds_nothing(pair):
    _, center = pair
    found = measure_quality(center, center, everywhere(center), center)
    assert found.sharpness == pytest.approx(1)
    assert "no sharper" in found.reasons()[0]
    assert found.is_useless


def test_sixteen_bits_are_measured_alike(pair):
    ref, center = pair
    eight = measure_quality(ref, center, everywhere(ref), ref)
    deep = measure_quality(ref * np.uint16(257), center * np.uint16(257), everywhere(ref), ref)
    assert tuple(deep) == pytest.approx(tuple(eight), rel=0.02, abs=1e-3)


def test_fine_texture_is_not_taken_for_noise_where_the_wide_image_is_smooth_elsewhere():
    rng = np.random.default_rng(0)
    ref = rng.normal(128, 40, (200, 300, 3)).clip(0, 255)
    ref[:, :90] = 128
    texture = ref.round().astype(np.uint8)
    center = cv2.GaussianBlur(texture, (0, 0), 2)
    found = measure_quality(texture, center, everywhere(texture), texture)
    assert found.noise < 1
    assert not found.is_useless
    noisy = (ref + rng.normal(0, 30, ref.shape)).clip(0, 255).astype(np.uint8)
    found = measure_quality(noisy, center, everywhere(noisy), noisy)
    assert found.noise == pytest.approx(30, rel=0.15)
    assert found.is_useless


def compressed(picture: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


@pytest.mark.parametrize("moved", [(0, 0), (3, 6)])
def test_the_edges_of_jpeg_blocks_are_seen_at_any_phase_and_grow_with_compression(pair, moved):
    ref, center = pair
    found = [measure_blocks(ref)]
    found += [measure_blocks(compressed(ref, q)[moved[0] :, moved[1] :]) for q in (90, 50, 10)]
    assert max(found[:2]) < 0.8
    assert found[1] < found[2] < found[3]
    assert measure_blocks(ref[:17]) == 0  # too small to tell
    given = compressed(ref, 10)[moved[0] :, moved[1] :]
    quality = measure_quality(ref, center, everywhere(ref), given)
    assert quality.blocks > MAX_BLOCKS
    assert quality.is_useless
    assert any("JPEG" in reason for reason in quality.reasons())


def test_edges_of_blocks_count_by_the_detail_that_the_tele_image_adds(pair):
    """Where it adds little, fainter edges spoil the gain; a digital zoom adds nothing."""
    ref, center = pair
    given = compressed(ref, 20)
    much = measure_quality(ref, center, everywhere(ref), given).blocks
    half = cv2.addWeighted(ref, 0.5, center, 0.5, 0)
    little = measure_quality(half, center, everywhere(ref), given).blocks
    none = measure_quality(center, center, everywhere(ref), given).blocks
    assert much < little < none
    assert none == pytest.approx(measure_blocks(given) / LEAST_ADDED)


def test_the_exposure_of_a_tele_image_does_not_change_its_edges(pair):
    ref, center = pair
    given = compressed(ref, 20).astype(np.uint16) * 257
    found = [
        measure_quality(ref, center, everywhere(ref), (given * gain).astype(np.uint16)).blocks
        for gain in (1, 0.25)
    ]
    assert found[1] == pytest.approx(found[0], rel=0.1)


def test_blocks_are_looked_for_in_the_middle_of_a_large_tele_image():
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (2600, 64, 3), np.uint8)
    large[276:2324] = np.repeat(np.repeat(rng.integers(0, 256, (256, 8, 3), np.uint8), 8, 0), 8, 1)
    assert measure_blocks(large) > MAX_BLOCKS
    assert measure_blocks(np.concatenate([large[:276], large[2324:]])) < 0.5


def test_a_calm_picture_has_no_blocks():
    """A wall's slow shades are rounded to steps of one grey level, which JPEG puts on its grid."""
    shades = np.linspace(120, 124, 200)[:, None, None] + np.linspace(0, 3, 300)[None, :, None]
    wall = np.broadcast_to(shades, (200, 300, 3)).round().astype(np.uint8)
    assert measure_blocks(wall) < 0.5
    assert measure_blocks(compressed(wall, 90)) < 1
    assert measure_blocks(np.full((64, 64, 3), 90, np.uint8)) == 0


def test_the_edges_of_bars_are_no_blocks(pair):
    ref, center = pair
    framed = ref.copy()
    framed[:24] = framed[-24:] = framed[:, :24] = framed[:, -24:] = 0
    assert measure_blocks(framed) < 0.6
    assert not measure_quality(framed, center, everywhere(ref), framed).is_useless


def test_noise_is_finite_where_hardly_anything_is_shown(pair):
    ref, center = pair
    shown = np.zeros(ref.shape[:2], bool)
    shown[10, 10:20] = True
    assert measure_quality(ref, center, shown, ref).noise == 0
