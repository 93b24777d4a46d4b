"""A noisy tele image loses its chroma noise and keeps its luma."""

import cv2
import numpy as np
import pytest
import skimage

from sddusr.geometry.box import Box, crop
from sddusr.model.filters import LUMA
from sddusr.registration import chroma_noise
from sddusr.registration.chroma_noise import MIN_NOISE, denoise_chroma, measure_chroma_noise
from sddusr.registration.residual import enlarged_center, register_ref

BOX = Box(100, 300, 160, 440)


@pytest.fixture(scope="module")
def hr() -> np.ndarray:
    return np.ascontiguousarray(skimage.data.coffee()[:400, :600])


def noisy(picture: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma, picture.shape)
    return (picture + noise).round().clip(0, 255).astype(np.uint8)


def chroma(picture: np.ndarray) -> np.ndarray:
    return picture - (picture @ LUMA)[..., None]


@pytest.mark.parametrize("sigma", [3, 5, 15])
def test_noise_is_measured_in_the_units_of_a_colour(sigma):
    grey = np.full((256, 256, 3), 120, np.uint8)
    found = measure_chroma_noise(noisy(grey, sigma), np.ones(grey.shape[:2], bool))
    assert found == pytest.approx(sigma, rel=0.05)
    assert measure_chroma_noise(grey, np.ones(grey.shape[:2], bool)) == 0
    assert measure_chroma_noise(grey, np.zeros(grey.shape[:2], bool)) == 0


def test_chroma_comes_closer_to_the_clean_picture_and_luma_stays(hr):
    given = noisy(hr, 5)
    found = denoise_chroma(given, 5.0)
    before, after = (np.square(chroma(x) - chroma(hr)).mean() for x in (given, found))
    assert after < 0.3 * before
    inside = (given > 20).all(2) & (given < 235).all(2)  # nothing is cut off
    assert np.abs(found @ LUMA - given @ LUMA)[inside].max() < 0.6


def test_colours_that_are_stronger_than_the_noise_are_kept(hr):
    checks = np.where(np.indices((200, 300)).sum(0)[..., None] % 2, [200, 60, 60], [60, 60, 200])
    found = denoise_chroma(checks.astype(np.uint8), 3.0)
    assert np.abs(found - checks).max() <= 1


def test_strips_and_depths_give_the_same_picture(hr, monkeypatch):
    given = noisy(hr, 5)
    whole = denoise_chroma(given, 5.0)
    deep = denoise_chroma(given * np.uint16(257), 5.0)
    assert np.abs(deep / 257 - whole).max() <= 0.51
    monkeypatch.setattr(chroma_noise, "STRIP_ROWS", 48)
    np.testing.assert_array_equal(denoise_chroma(given, 5.0), whole)


def test_registration_takes_colour_noise_out_and_leaves_a_clean_ref_alone(hr):
    lr = cv2.resize(hr, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    clean = np.ascontiguousarray(crop(hr, BOX))
    found = register_ref(lr, clean, BOX, "homography")
    assert found.record["quality"]["chroma_noise"] < MIN_NOISE
    np.testing.assert_array_equal(found.ref, clean)

    given = noisy(clean, 6)
    given[:30] = 0  # a bar
    found = register_ref(lr, given, BOX, "homography")
    assert found.record["quality"]["chroma_noise"] == pytest.approx(6, rel=0.2)
    assert not found.valid[:28].any()
    center = enlarged_center(lr, BOX)
    np.testing.assert_array_equal(found.ref[~found.valid], center[~found.valid])
    before, after = (np.square(chroma(x) - chroma(clean))[40:].mean() for x in (given, found.ref))
    assert after < 0.3 * before
