"""Refs as they come: a function of the sample's seed, and of nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from sddusr.config import DataConfig, RefsConfig
from sddusr.data.crops import cut_sample, draw_colors
from sddusr.data.detail import detail_map, detail_quantiles
from sddusr.data.ref_faults import KINDS, apply_fault, draw_fault
from sddusr.geometry.box import Box, crop
from sddusr.types import Triplet
from tests.conftest import textured

CONFIG = DataConfig(crop_px=24, shift_px=(0, 12))
ALL_KINDS = RefsConfig(**{f"{kind}_share": 0.1 for kind in KINDS})


@pytest.fixture(scope="module")
def triplet() -> Triplet:
    hr = textured(128, 160, 5)
    lr = np.ascontiguousarray(hr[::2, ::2])
    detail = detail_map(hr)
    return Triplet(
        id="a",
        scene="a",
        split="train",
        lr=lr,
        ref=hr.copy(),
        hr=hr,
        detail=detail,
        detail_quantiles=detail_quantiles(detail),
        center_box=Box(0, 128, 0, 160),
        provenance={},
    )


@pytest.mark.parametrize("seed", range(12))
def test_the_offset_says_where_the_stand_in_lies_under_every_symmetry(triplet, seed):
    sample = cut_sample(triplet, CONFIG, np.random.default_rng(seed))
    dy, dx = sample.center_offset
    assert dy % 4 == dx % 4 == 0
    size = sample.hr.shape[0]
    y0, y1 = max(dy, 0), min(dy + size, size)
    x0, x1 = max(dx, 0), min(dx + size, size)
    # Ref is HR here, so where both show the same place they are the same pixels.
    own = sample.ref[y0 - dy : y1 - dy, x0 - dx : x1 - dx]
    np.testing.assert_array_equal(sample.hr[y0:y1, x0:x1], own)


def test_without_faults_the_samples_are_what_they_were(triplet):
    plain = cut_sample(triplet, CONFIG, np.random.default_rng(3))
    faulty = cut_sample(
        triplet, replace(CONFIG, refs=ALL_KINDS, color_augment=1.0), np.random.default_rng(3)
    )
    assert plain.center_offset == faulty.center_offset
    np.testing.assert_array_equal(plain.mask_label, faulty.mask_label)
    assert plain.has_ref


def test_faults_are_a_function_of_the_seed(triplet):
    config = replace(CONFIG, refs=ALL_KINDS, color_augment=0.5)
    for seed in range(8):
        first, second = (cut_sample(triplet, config, np.random.default_rng(seed)) for _ in "ab")
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_fault_changes_ref_alone(triplet):
    for seed in range(20):
        plain = cut_sample(triplet, CONFIG, np.random.default_rng(seed))
        faulty = cut_sample(triplet, replace(CONFIG, refs=ALL_KINDS), np.random.default_rng(seed))
        for name in ("lr", "lr_center", "hr", "mask_label"):
            np.testing.assert_array_equal(getattr(plain, name), getattr(faulty, name))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "absent"])
def test_every_kind_changes_ref_and_keeps_its_size(triplet, kind):
    ref, center = triplet.hr[:96, :96].copy(), triplet.lr[:48, :48].copy()
    rng = np.random.default_rng(1)
    made = apply_fault(kind, ref, center, triplet.hr, RefsConfig(), rng)
    assert made.has_ref
    assert made.ref.shape == ref.shape
    assert made.ref.dtype == np.uint8
    assert (made.ref != ref).any()


def test_an_absent_ref_is_only_marked(triplet):
    ref = triplet.hr[:96, :96].copy()
    made = apply_fault("absent", ref, ref, ref, RefsConfig(), np.random.default_rng(0))
    assert not made.has_ref
    np.testing.assert_array_equal(made.ref, ref)


def test_kinds_come_in_their_shares():
    config = RefsConfig(defocus_share=0.3, absent_share=0.2)
    rng = np.random.default_rng(0)
    drawn = [draw_fault(config, rng) for _ in range(4000)]
    assert drawn.count("defocus") / 4000 == pytest.approx(0.3, abs=0.03)
    assert drawn.count("absent") / 4000 == pytest.approx(0.2, abs=0.03)
    assert set(drawn) == {"defocus", "absent", ""}


def test_shares_above_one_are_refused():
    with pytest.raises(ValueError, match=r"add up to 1\.2"):
        RefsConfig(defocus_share=0.7, noise_share=0.5)


def test_colors_keep_a_white_pixel_near_white():
    for seed in range(20):
        white = draw_colors(np.random.default_rng(seed)) @ np.ones(3)
        assert (white > 0.75).all()
        assert (white < 1.3).all()


def test_all_pictures_change_color_alike(triplet):
    config = replace(CONFIG, color_augment=1.0, shift_px=(0, 0))
    for seed in range(6):
        sample = cut_sample(triplet, config, np.random.default_rng(seed))
        np.testing.assert_array_equal(sample.hr, sample.ref)
        np.testing.assert_array_equal(sample.lr, sample.lr_center)


def test_an_occluder_shows_other_pixels_in_its_shape_only(triplet):
    ref = np.ascontiguousarray(crop(triplet.hr, Box(0, 96, 0, 96)))
    config = RefsConfig(occluder_side=(0.2, 0.3))
    changed = [
        (apply_fault("occluder", ref, ref[::2, ::2], triplet.hr, config,
                     np.random.default_rng(seed)).ref != ref).any(2).mean()
        for seed in range(20)
    ]  # fmt: skip
    assert 0.01 < np.median(changed) < 0.4
