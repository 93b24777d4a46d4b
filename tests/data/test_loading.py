import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from sddusr import storage
from sddusr.data.detail import detail_map
from sddusr.data.layouts import find
from sddusr.data.loading import Job, Pairing, load_triplet
from sddusr.data.prepare import Recipe, make_shard, plan_shards
from sddusr.data.shard import Shard
from sddusr.data.source_files import Source
from sddusr.geometry.box import Box, crop
from sddusr.imaging.images import encode_png, read_rgb, write_picture
from sddusr.registration import register
from sddusr.registration.pairing import PairConfig
from sddusr.registration.register import RegistrationConfig
from sddusr.registration.residual import enlarged_center
from tests.conftest import make_triplet
from tests.phone import QUICK, VIEW, save, save_pair, scene, wide_of

PAIRING = Pairing(pair=QUICK)
RECIPE = Recipe(window_px=64, stride_px=32, margin_px=24, pairing=PAIRING)


def job(root: Path, out: Path | str = "", *, quarantine: bool = False) -> Job:
    return Job(root=str(root), out=str(out), quarantine=quarantine, max_pixels=10**6)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs of 320x400; the tele picture of `b` shows another place."""
    root = tmp_path_factory.mktemp("pairs")
    for seed, stem in enumerate("abc"):
        save_pair(root, stem, seed, other=7 if stem == "b" else -1)
    return root


def halved_box(box: Box) -> np.ndarray:
    return np.array(box) / 2


def test_a_pair_becomes_a_triplet_whose_hr_is_the_wide_picture(pairs):
    source = find("pairs", str(pairs)).sources[0]
    triplet = load_triplet(source, job(pairs), PAIRING)
    wide = read_rgb(source.hr).pixels
    np.testing.assert_array_equal(triplet.hr, wide)
    np.testing.assert_array_equal(triplet.detail, detail_map(wide))
    assert triplet.lr.shape == (160, 200, 3)
    assert np.abs(np.array(triplet.center_box) - halved_box(VIEW)).max() <= 6
    assert all(edge % 4 == 0 for edge in triplet.center_box)
    truth = crop(wide_of(scene(0)), triplet.center_box)
    error = np.abs(triplet.ref.astype(float) - truth)
    assert error.mean() < 6  # a shift by one pixel is off by more than 9


def test_a_shift_by_one_pixel_would_be_seen(pairs):
    """Holds the bound of the test above against the picture that it is used on."""
    wide = wide_of(scene(0)).astype(float)
    assert np.abs(wide[:, 1:] - wide[:, :-1]).mean() > 9


def test_provenance_tells_files_registration_and_degradation(pairs):
    source = find("pairs", str(pairs)).sources[0]
    pairing = Pairing(degradation="camera", pair=QUICK)
    provenance = load_triplet(source, job(pairs), pairing).provenance
    assert provenance["hr"]["file"] == "wide/a.png"
    assert provenance["ref"] == {"file": "tele/a.png", "sha256": read_rgb(source.ref or "").sha256}
    assert provenance["degradation"]["kind"] == "camera"
    record = json.loads(json.dumps(provenance))["registration"]
    assert record["decision"] == "registered"
    assert np.array(record["homography"]).shape == (3, 3)
    assert 1.9 < record["zoom"] < 2.1
    assert record["num_inliers"] > 10
    assert 0.95 < record["valid_share"] <= 1
    assert np.array(record["color"]["matrix"]).shape == (3, 3)


def test_a_shard_holds_no_credentials_and_hangs_on_none(bucket, secret_bucket, tmp_path):
    triplet = make_triplet(lr_shape=(64, 64))
    for folder, pixels in (("LR", triplet.lr), ("Ref", triplet.ref), ("HR", triplet.hr)):
        for name in ("a.png", "b.png"):
            content = b"no picture" if name == "b.png" else encode_png(pixels)
            storage.write_atomic(f"{bucket}/in/{folder}/{name}", content)
    seen = []
    for number, root in enumerate((f"{bucket}/in", storage.join(secret_bucket, "in"))):
        (plan,) = plan_shards(find("folders", root).sources, Recipe(window_px=64, stride_px=32), 8)
        report = make_shard(plan, job(root, tmp_path / str(number), quarantine=True))
        assert "b.png" in report.quarantined["b"]
        assert "sEcReT" not in report.to_json()
        with closing(Shard(str(tmp_path / str(number) / plan.name))) as shard:
            provenance = shard.read(0).provenance
            seen.append((shard.metadata["plan_sha256"], shard.metadata["content_sha256"]))
        files = [provenance[member]["file"] for member in ("lr", "ref", "hr")]
        assert files == ["LR/a.png", "Ref/a.png", "HR/a.png"]
    assert seen[0] == seen[1]


def hide(path: Path, seed: int) -> None:
    """Make the left half of a picture transparent, with noise below."""
    pixels = read_rgb(str(path)).pixels.copy()
    alpha = np.full(pixels.shape[:2], 255, np.uint8)
    left = np.s_[:, : pixels.shape[1] // 2]
    pixels[left] = np.random.default_rng(seed).integers(0, 256, pixels[left].shape)
    alpha[left] = 0
    write_picture(str(path), pixels, alpha=alpha)


def test_what_lies_under_a_transparent_tele_picture_is_not_ref(tmp_path):
    save_pair(tmp_path, "a", 0)
    hide(tmp_path / "tele" / "a.png", 0)
    triplet = load_triplet(find("pairs", str(tmp_path)).sources[0], job(tmp_path), PAIRING)
    middle = triplet.ref.shape[1] // 2
    center = enlarged_center(triplet.lr, triplet.center_box)
    np.testing.assert_array_equal(triplet.ref[:, : middle - 8], center[:, : middle - 8])
    assert 0.4 < triplet.provenance["registration"]["valid_share"] < 0.6
    truth = crop(wide_of(scene(0)), triplet.center_box)
    assert np.abs(triplet.ref.astype(float) - truth)[:, middle + 8 :].mean() < 6


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("method", ["none", "homography", "auto"])
def test_what_lies_under_a_transparent_ref_is_not_ref(tmp_path, method, halved):
    hr = wide_of(scene(0))
    source = Source(
        id="a", scene="a", split="train", box="whole", halved=halved,
        hr=f"{tmp_path}/hr.png", lr=f"{tmp_path}/lr.png", ref=f"{tmp_path}/ref.png",
    )  # fmt: skip
    save(tmp_path / "hr.png", hr)
    factor = 0.25 if halved else 0.5
    save(
        tmp_path / "lr.png",
        cv2.resize(hr, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA),
    )
    made = []
    for seed in (0, 1):
        save(tmp_path / "ref.png", hr)
        hide(tmp_path / "ref.png", seed)
        made.append(load_triplet(source, job(tmp_path), None, method))
    np.testing.assert_array_equal(made[0].ref, made[1].ref)
    middle = made[0].ref.shape[1] // 2
    center = enlarged_center(made[0].lr, made[0].center_box)
    np.testing.assert_array_equal(made[0].ref[:, : middle - 8], center[:, : middle - 8])
    assert np.abs(made[0].ref[:, middle + 8 :].astype(float) - center[:, middle + 8 :]).mean() > 3
    assert 0.4 < made[0].provenance["visible_share"] < 0.5


def test_a_ref_that_is_transparent_everywhere_is_refused(tmp_path):
    source = Source(id="a", scene="a", split="train", box="whole", hr=f"{tmp_path}/hr.png")
    source = replace(source, lr=f"{tmp_path}/lr.png", ref=f"{tmp_path}/ref.png")
    save(tmp_path / "hr.png", wide_of(scene(0)))
    save(tmp_path / "lr.png", wide_of(scene(0))[::2, ::2])
    write_picture(str(source.ref), wide_of(scene(0)), alpha=np.zeros((320, 400), np.uint8))
    with pytest.raises(ValueError, match=r"ref\.png: transparent everywhere"):
        load_triplet(source, job(tmp_path))


def test_a_ref_too_long_to_register_is_told_by_name(tmp_path, monkeypatch):
    hr, lr = (
        wide_of(scene(0)),
        cv2.resize(wide_of(scene(0)), (200, 160), interpolation=cv2.INTER_AREA),
    )
    for name, picture in (("LR", lr), ("Ref", hr), ("HR", hr)):
        save(tmp_path / name / "a.png", picture)
    monkeypatch.setattr(register, "MAX_SIDE_PX", 399)
    (plan,) = plan_shards(
        find("folders", str(tmp_path)).sources, replace(RECIPE, register_ref="auto"), 8
    )
    error = make_shard(plan, job(tmp_path, tmp_path / "out")).error
    assert error.startswith("a: Ref is 320x400 pixels, need at most 399 a side")


def test_a_wide_picture_is_cropped_to_whole_cells(tmp_path):
    odd = np.ascontiguousarray(wide_of(scene(2))[:319, :398])
    save_pair(tmp_path, "a", 2)
    save(tmp_path / "wide" / "a.png", odd)
    triplet = load_triplet(find("pairs", str(tmp_path)).sources[0], job(tmp_path), PAIRING)
    assert triplet.hr.shape == (316, 396, 3)
    np.testing.assert_array_equal(triplet.hr, odd[:316, :396])


def test_a_pair_that_shows_another_place_stops_the_work_or_is_set_aside(pairs, tmp_path):
    (plan,) = plan_shards(find("pairs", str(pairs)).sources, RECIPE, 8)
    stopped = make_shard(plan, job(pairs, tmp_path))
    assert stopped.entry is None
    assert stopped.error.startswith("b: ")
    report = make_shard(plan, job(pairs, tmp_path, quarantine=True))
    assert report.entry
    assert set(report.quarantined) == {"b"}
    assert {id.partition("@")[0] for id in report.entry.ids} == {"a", "c"}
    shard = Shard(str(tmp_path / plan.name))
    row = shard.read(0)
    assert row.lr.shape == (64, 64, 3)
    assert "registration" in row.provenance
    shard.close()
    assert make_shard(plan, job(pairs, tmp_path, quarantine=True)).reused


@pytest.mark.parametrize(
    "pairing",
    [
        Pairing(degradation="camera", pair=QUICK),
        Pairing(pair=PairConfig(registration=RegistrationConfig(refine="none"))),
    ],
)
def test_how_pairs_are_made_decides_what_a_shard_is(pairs, pairing):
    sources = find("pairs", str(pairs)).sources
    (plan,) = plan_shards(sources, RECIPE, 8)
    other = replace(RECIPE, pairing=pairing)
    (changed,) = plan_shards(sources, other, 8)
    assert plan.sha256(str(pairs)) != changed.sha256(str(pairs))


def test_a_pair_that_cannot_be_registered_by_its_zoom_is_told_by_name(tmp_path):
    save_pair(tmp_path, "same", 1)
    save(tmp_path / "tele" / "same.png", wide_of(scene(1)))
    with pytest.raises(ValueError, match=r"^same: .*zoom"):
        load_triplet(find("pairs", str(tmp_path)).sources[0], job(tmp_path), PAIRING)


def test_a_wide_picture_of_less_than_a_cell_is_refused(tmp_path):
    save_pair(tmp_path, "tiny", seed=0)
    save(tmp_path / "wide" / "tiny.png", np.zeros((3, 40, 3), np.uint8))
    with pytest.raises(ValueError, match=r"tiny\.png: 3x40, need 4 pixels a side"):
        load_triplet(find("pairs", str(tmp_path)).sources[0], job(tmp_path), PAIRING)
