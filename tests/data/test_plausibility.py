"""Triplets whose pictures do not belong together are refused by name; good ones are taken."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.preprocess import PreprocessOptions, preprocess
from sddusr.data import sample_images
from sddusr.data.plausibility import check_belongs_together
from sddusr.imaging.images import read_rgb, write_png
from tests.conftest import textured

NAMES = {"lr": "LR.png", "ref": "Ref.png", "hr": "HR.png"}


def scene(seed):
    """Coloured shapes with detail: a picture of 320x320."""
    rng = np.random.default_rng(seed)
    picture = textured(320, 320, seed).astype(np.float32) * 0.4
    for _ in range(12):
        centre = rng.integers(0, 320, 2).tolist()
        cv2.circle(picture, centre, int(rng.integers(10, 60)), rng.uniform(0, 255, 3).tolist(), -1)
    return np.clip(picture + textured(320, 320, seed + 99) * 0.3 - 38, 0, 255).astype(np.uint8)


def triplet(seed=0, full_ref=True):
    made = sample_images.degrade(scene(seed), str(seed), full_ref=full_ref)
    return {"lr": made.lr, "ref": made.ref, "hr": made.hr, "box": made.box}


def check(allow_flat=False, **changes):
    check_belongs_together(NAMES, **{**triplet(), **changes}, allow_flat=allow_flat)


@pytest.mark.parametrize("full_ref", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_good_triplets_are_taken(seed, full_ref):
    check(**triplet(seed, full_ref))


def test_the_photographs_of_the_demo_are_taken():
    for split in sample_images.PICTURES:
        for name, path in sample_images.find(split).items():
            made = sample_images.degrade(read_rgb(path).pixels, name, full_ref=split == "train")
            check(lr=made.lr, ref=made.ref, hr=made.hr, box=made.box)


def test_a_brighter_noisier_softer_lr_is_taken():
    lr = cv2.GaussianBlur(triplet()["lr"], (0, 0), 1.5)
    noisy = lr * 0.6 + 60 + np.random.default_rng(0).normal(0, 8, lr.shape)
    check(lr=np.clip(noisy, 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("member", "change", "message"),
    [
        (
            "lr",
            lambda lr: triplet(1)["lr"],
            r"LR\.png: is not HR\.png made smaller .*another scene",
        ),
        ("lr", lambda lr: np.rot90(lr).copy(), r"LR\.png: is not HR\.png made smaller"),
        ("lr", lambda lr: lr[::-1].copy(), r"LR\.png: is not HR\.png made smaller"),
        ("lr", lambda lr: lr[..., ::-1].copy(), r"LR\.png: red and blue are swapped"),
        ("lr", lambda lr: np.roll(lr, 2, 1), r"LR\.png: lies 2\.\d LR pixels beside .* x \+2\.\d"),
        ("lr", lambda lr: np.roll(lr, -3, 0), r"LR\.png: lies 3\.\d LR pixels beside .*\(y -3\.\d"),
        ("lr", np.zeros_like, r"LR\.png: a flat picture"),
        ("ref", lambda ref: triplet(1)["ref"], r"Ref\.png: is not what HR\.png shows there"),
        ("ref", lambda ref: np.rot90(ref).copy(), r"Ref\.png: is not what HR\.png shows there"),
        ("ref", lambda ref: ref[..., ::-1].copy(), r"Ref\.png: red and blue are swapped"),
        ("ref", lambda ref: np.full_like(ref, 255), r"Ref\.png: a flat picture"),
        ("hr", np.zeros_like, r"HR\.png: a flat picture"),
    ],
)
def test_what_does_not_belong_together_is_refused(member, change, message):
    with pytest.raises(ValueError, match=message):
        check(**{member: change(triplet()[member])})


@pytest.mark.parametrize("shift", [0, 1])
def test_a_shift_as_real_optics_have_it_is_taken(shift):
    lr = triplet()["lr"]
    moved = cv2.warpAffine(
        lr, np.float32([[1, 0, shift * 0.6], [0, 1, -0.5]]), lr.shape[1::-1], borderMode=4
    )
    check(lr=moved)


def test_a_ref_with_parallax_is_taken():
    check(ref=np.roll(triplet()["ref"], 30, 1))


def test_a_black_picture_of_a_test_set_stays_as_it_was_published():
    black = {member: np.zeros_like(triplet()[member]) for member in NAMES}
    check(allow_flat=True, **black)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Twenty good triplets and one whose LR shows another scene."""
    root = tmp_path / "data"
    for seed in range(20):
        save(root, f"good-{seed:02d}", triplet(seed))
    save(root, "mixed-up", {**triplet(20), "lr": triplet(21)["lr"]})
    return root


def save(root, stem, members):
    for member, folder in (("lr", "LR"), ("ref", "Ref"), ("hr", "HR")):
        write_png(str(root / folder / f"{stem}.png"), members[member])


@pytest.mark.usefixtures("ray_session")
def test_preprocessing_stops_at_or_sets_aside_a_triplet_that_is_mixed_up(dataset, tmp_path):
    options = PreprocessOptions(
        layout="folders", root=str(dataset), out=str(tmp_path / "out"), window_px=64
    )
    with pytest.raises(ValueError, match=r"LR/mixed-up\.png: is not .*HR/mixed-up\.png"):
        preprocess(options)
    manifest = preprocess(replace(options, on_error="quarantine"))
    assert list(manifest["quarantined"]) == ["mixed-up"]
    assert "another scene" in manifest["quarantined"]["mixed-up"]
    taken = preprocess(replace(options, check_triplets=False))
    assert not taken["quarantined"]
    assert sum(taken["counts"].values()) > sum(manifest["counts"].values())
    with pytest.raises(ValueError, match="mixed-up"):  # what was taken unchecked is checked again
        preprocess(options)
    assert not json.loads(Path(tmp_path, "out", "plan.json").read_text()).get("check_triplets")
