import cv2
import numpy as np
import pytest
import torch

from sddusr.data import sample_images
from sddusr.data.degradation import halve
from sddusr.imaging.resize import bicubic_down
from tests.conftest import textured

HR = textured(64, 80, 1)


def test_bicubic_is_the_projects_own_rounded_to_8_bits():
    lr, record = halve(HR, "bicubic", "a")
    expected = bicubic_down(torch.from_numpy(HR.transpose(2, 0, 1)).float()[None])[0]
    assert np.abs(expected.clamp(0, 255).permute(1, 2, 0).numpy() - lr).max() <= 0.5
    assert lr.dtype == np.uint8
    assert record == {"kind": "bicubic"}


def test_a_camera_is_drawn_by_the_pictures_name():
    first, again, other = (halve(HR, "camera", name) for name in ("a", "a", "b"))
    np.testing.assert_array_equal(first.lr, again.lr)
    assert first.record == again.record != other.record
    assert (first.lr != other.lr).any()
    assert 0.8 <= first.record["lr_blur_px"] <= 1.2
    assert 1 <= first.record["lr_noise"] <= 2
    assert 85 <= first.record["lr_jpeg_quality"] <= 95


def test_a_phone_is_drawn_from_wider_ranges():
    records = [halve(HR, "phone", str(number)).record for number in range(20)]
    for field, low, high in (
        ("lr_blur_px", 0.5, 1.6),
        ("lr_noise", 0.5, 4),
        ("lr_jpeg_quality", 70, 95),
    ):
        values = [record[field] for record in records]
        assert low <= min(values) < low + (high - low) / 3
        assert high - (high - low) / 3 < max(values) <= high
    assert {record["kind"] for record in records} == {"phone"}
    sample = sample_images.degrade(HR, "0", full_ref=True, lens="phone")
    np.testing.assert_array_equal(sample.lr, halve(HR, "phone", "0").lr)


@pytest.mark.parametrize("kind", ["bicubic", "camera", "phone"])
def test_all_leave_places_and_colours_where_they_are(kind):
    smooth = cv2.GaussianBlur(textured(64, 80, 2), (0, 0), 4)
    means = cv2.resize(smooth, (40, 32), interpolation=cv2.INTER_AREA)
    difference = halve(smooth, kind, "a").lr.astype(float) - means
    assert np.abs(difference.mean((0, 1))).max() < 0.7
    assert np.abs(difference).mean() < 4


def test_a_sample_is_made_by_the_same_camera():
    sample = sample_images.degrade(HR, "a", full_ref=True)
    made = halve(HR, "camera", "a")
    np.testing.assert_array_equal(sample.lr, made.lr)
    assert sample.record.items() >= {k: v for k, v in made.record.items() if k != "kind"}.items()
