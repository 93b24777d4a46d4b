"""Photographs and pairs as the data of a study: nothing of one scene on two sides."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import triplets

from sddusr.data.layouts import find
from sddusr.imaging.images import read_rgb, write_png
from tests.conftest import textured

PHOTOS = ("apple", "berry", "cherry")
PAIRS = ("city100_a_001", "city100_b_001", "city100_a_002")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for seed, name in enumerate(PHOTOS):
        write_png(str(root / "photos" / "deep" / f"{name}.png"), textured(70, 90, seed))
    for seed, name in enumerate(PAIRS):
        hr = textured(66, 82, 10 + seed)
        write_png(str(root / "pairs" / name / "hr.png"), hr)
        write_png(str(root / "pairs" / name / "wide.png"), cv2.GaussianBlur(hr, (0, 0), 1))
    command = [sys.executable, triplets.__file__, "--photos", str(root / "photos")]
    command += ["--pairs", str(root / "pairs"), "--out", str(root / "out"), "--draws", "2"]
    command += ["--test", "apple", "city100_*_001", "--val", "berry", "--side-px", "80"]
    subprocess.run(command, check=True)
    return root / "out"


def test_what_is_held_out_is_not_trained_on(out):
    train, val = (
        {source.id for source in find("folders", str(out / "mix")).sources if source.split == split}
        for split in ("train", "val")
    )
    assert train == {
        f"train-{name}"
        for name in (
            "cherry-camera",
            "cherry-phone",
            "city100_a_002",
            "city100_a_002-0",
            "city100_a_002-1",
        )
    }
    assert val == {"val-berry-camera"}


def test_each_test_set_is_a_folder_of_its_own(out):
    found = {
        name: {source.id for source in find("folders", str(out / name)).sources}
        for name in ("photos", "photos-phone", "photos-faulty", "pairs")
    }
    assert found == {
        "photos": {"test-apple-camera"},
        "photos-phone": {"test-apple-phone"},
        "photos-faulty": {"test-apple-defocus", "test-apple-exposure"},
        "pairs": {"test-city100_a_001", "test-city100_b_001"},
    }


def test_a_faulty_ref_differs_where_the_wide_picture_does_not(out):
    def pixels(test_set: str, kind: str, name: str) -> np.ndarray:
        return read_rgb(str(out / test_set / "test" / kind / f"{name}.png")).pixels

    for kind in ("LR", "HR"):
        good = pixels("photos", kind, "apple-camera")
        np.testing.assert_array_equal(pixels("photos-faulty", kind, "apple-defocus"), good)
    blurred = pixels("photos-faulty", "Ref", "apple-defocus").astype(float)
    good = pixels("photos", "Ref", "apple-camera").astype(float)
    assert np.abs(np.diff(blurred, axis=0)).mean() < 0.8 * np.abs(np.diff(good, axis=0)).mean()


def test_a_pair_keeps_its_own_lr_and_the_middle_of_hr_as_ref(out):
    folder = out / "pairs" / "test"
    lr, ref, hr = (
        read_rgb(str(folder / kind / "city100_a_001.png")).pixels for kind in ("LR", "Ref", "HR")
    )
    y0, y1, x0, x1 = json.loads((folder / "boxes.json").read_text())["city100_a_001"]
    np.testing.assert_array_equal(ref, hr[y0:y1, x0:x1])
    assert (y0 % 4, x0 % 4) == (0, 0)
    assert hr.shape == (64, 80, 3)
    assert lr.shape == (32, 40, 3)
    halved = cv2.resize(hr.astype(np.float32), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert 1 < np.abs(lr - halved).mean() < 20


def test_a_large_photograph_is_made_smaller(out):
    assert read_rgb(str(out / "mix" / "val" / "HR" / "berry-camera.png")).pixels.shape[1] == 80
