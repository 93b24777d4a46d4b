"""What a tele picture lacks is measured and said."""

import cv2
import numpy as np
import pytest
import skimage

from sddusr.geometry.box import Box, crop
from sddusr.registration.quality import measure_quality
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
    found = measure_quality(ref, center, everywhere(ref))
    assert found.reasons() == []
    assert found.sharpness > 1.5


def test_defocus_noise_other_objects_and_bars_are_told(pair):
    ref, center = pair
    rng = np.random.default_rng(0)
    soft = measure_quality(cv2.GaussianBlur(ref, (0, 0), 2), center, everywhere(ref))
    assert "no sharper" in soft.reasons()[0]
    noisy = np.clip(ref + rng.normal(0, 30, ref.shape), 0, 255).astype(np.uint8)
    assert any("noisy" in reason for reason in measure_quality(noisy, center, everywhere(ref))
               .reasons())  # fmt: skip
    other = ref.copy()
    other[50:130, 60:160] = 255 - other[50:130, 60:160]
    assert any("differs" in reason for reason in measure_quality(other, center, everywhere(ref))
               .reasons())  # fmt: skip
    shown = everywhere(ref)
    shown[:40] = False
    assert any("shows nothing" in reason for reason in measure_quality(ref, center, shown)
               .reasons())  # fmt: skip


def test_a_digital_zoom_adds_nothing(pair):
    _, center = pair
    found = measure_quality(center, center, everywhere(center))
    assert found.sharpness == pytest.approx(1)
    assert "no sharper" in found.reasons()[0]
    assert found.is_useless


def test_sixteen_bits_are_measured_alike(pair):
    ref, center = pair
    eight = measure_quality(ref, center, everywhere(ref))
    deep = measure_quality(ref * np.uint16(257), center * np.uint16(257), everywhere(ref))
    assert tuple(deep) == pytest.approx(tuple(eight), rel=0.02, abs=1e-3)


def test_fine_texture_is_not_taken_for_noise_where_the_wide_image_is_smooth_elsewhere():
    rng = np.random.default_rng(0)
    ref = rng.normal(128, 40, (200, 300, 3)).clip(0, 255)
    ref[:, :90] = 128
    texture = ref.round().astype(np.uint8)
    center = cv2.GaussianBlur(texture, (0, 0), 2)
    found = measure_quality(texture, center, everywhere(texture))
    assert found.noise < 1
    assert not found.is_useless
    noisy = (ref + rng.normal(0, 20, ref.shape)).clip(0, 255).astype(np.uint8)
    found = measure_quality(noisy, center, everywhere(noisy))
    assert found.noise == pytest.approx(20, rel=0.15)
    assert found.is_useless
