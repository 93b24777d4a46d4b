"""Datasets of other papers: a small tree of each kind is found and read, another is refused."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from sddusr.data.layouts import find
from sddusr.data.loading import Job, Pairing, load_triplet
from sddusr.data.prepare import Recipe, make_shard, plan_shards
from sddusr.data.shard import Shard
from sddusr.geometry.box import Box
from sddusr.registration.register import NotRegistered
from tests.conftest import textured
from tests.phone import QUICK, save, save_pair


def job(root: Path, out: Path | str = "", *, quarantine: bool = False) -> Job:
    return Job(root=str(root), out=str(out), quarantine=quarantine, max_pixels=10**6)


def scaled(picture: np.ndarray, factor: float) -> np.ndarray:
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def save_nikon(root: Path, split: str, name: str, *, with_x2: bool = False) -> np.ndarray:
    hr = textured(96, 128, seed=len(name))
    save(root / f"{split}_HR" / f"{name}_x4.png", hr)
    save(root / f"{split}_LR" / f"{name}_x1.png", scaled(hr, 0.25))
    if with_x2:
        save(root / f"{split}_Ref" / f"{name}_x2.png", scaled(hr, 0.5) // 2 + 40)
    return hr


def test_nikon_of_selfdzsr_is_halved_to_twice_lr(tmp_path):
    for split in ("train", "test"):
        save_nikon(tmp_path / "Nikon", split, "DSC_0001")
    found = find("selfdzsr-nikon", str(tmp_path))
    assert [source.id for source in found.sources] == ["test-DSC_0001", "train-DSC_0001"]
    test, train = (load_triplet(source, job(tmp_path)) for source in found.sources)
    for triplet in (test, train):
        assert triplet.lr.shape == (24, 32, 3)
        assert triplet.provenance["halved"] == ["hr", "ref"]
        assert triplet.provenance["hr"]["file"].endswith("_HR/DSC_0001_x4.png")
    written = cv2.imread(str(tmp_path / "Nikon" / "train_HR" / "DSC_0001_x4.png"))[..., ::-1]
    means = written.reshape(48, 2, 64, 2, 3).astype(float).mean((1, 3))
    assert np.abs(train.hr - means).max() <= 0.5
    assert train.center_box == Box(0, 48, 0, 64)
    np.testing.assert_array_equal(train.ref, train.hr)
    assert test.center_box == Box(12, 36, 16, 48)
    np.testing.assert_array_equal(test.ref, test.hr[12:36, 16:48])


def test_nikon_of_selfdzsr_plus_plus_takes_the_x2_picture(tmp_path):
    for split in ("train", "test"):
        save_nikon(tmp_path, split, "DSC_7", with_x2=True)
    source = find("selfdzsr-nikon", str(tmp_path)).sources[1]
    triplet = load_triplet(source, job(tmp_path))
    expected = cv2.imread(str(tmp_path / "train_Ref" / "DSC_7_x2.png"))[..., ::-1]
    np.testing.assert_array_equal(triplet.hr, expected)
    assert "halved" not in triplet.provenance


def test_a_picture_without_its_partner_is_named(tmp_path):
    for split in ("train", "test"):
        save_nikon(tmp_path, split, "DSC_1")
    (tmp_path / "test_HR" / "DSC_1_x4.png").unlink()
    orphans = find("selfdzsr-nikon", str(tmp_path)).orphans
    assert orphans == {"test-DSC_1": "test-DSC_1: no hr picture of that stem"}


def test_iphone_frames_of_a_video_are_one_scene(tmp_path):
    for split in ("train", "test"):
        for video, frame in (("0001", "00"), ("0001", "01"), ("0002", "00")):
            ref = textured(48, 64, seed=int(video + frame))
            for name, factor in (("LR", 0.5), ("Ref", 1), ("HR", 2)):
                save(tmp_path / split / name / video / f"{frame}.png", scaled(ref, factor))
    found = find("selfdzsr-iphone", str(tmp_path))
    assert [source.id for source in found.sources][:3] == [
        "test-0001_00", "test-0001_01", "test-0002_00"
    ]  # fmt: skip
    assert {source.scene for source in found.sources} == {
        "test-0001", "test-0002", "train-0001", "train-0002"
    }  # fmt: skip
    triplet = load_triplet(found.sources[1], job(tmp_path))
    assert triplet.hr.shape == (48, 64, 3)
    assert triplet.ref.shape == (24, 32, 3)
    assert triplet.provenance["hr"]["file"] == "test/Ref/0001/01.png"


def test_shards_are_made_of_them(tmp_path):
    for split in ("train", "test"):
        save_nikon(tmp_path / "data", split, "DSC_1")
    sources = find("selfdzsr-nikon", str(tmp_path / "data")).sources
    for plan in plan_shards(sources, Recipe(window_px=16, stride_px=8), 4):
        report = make_shard(plan, job(tmp_path / "data", tmp_path / "out"))
        assert not report.error
        assert report.entry is not None
        shard = Shard(str(tmp_path / "out" / plan.name))
        assert shard.num_rows == (6 if plan.split == "train" else 1)


def save_cufed5(top: Path, names: str, similar: str) -> None:
    """Pictures of one view; those of `similar` have a reference of twice the density."""
    pairs = top.parent / "pairs"
    for seed, name in enumerate(names):
        save_pair(pairs, name, seed)
        wide = pairs / "wide" / f"{name}.png"
        tele = pairs / "tele" / f"{name}.png" if name in similar else wide
        for number, source in ((0, wide), (1, tele), (2, wide)):
            save(top / f"00{name}_{number}.png", cv2.imread(str(source))[..., ::-1])


@pytest.mark.parametrize("below", ["", "CUFED5", "test/CUFED5"])
def test_cufed5_pairs_hr_with_its_most_similar_reference(tmp_path, below):
    save_cufed5(tmp_path / "root" / below, "a", "a")
    (source,) = find("cufed5", str(tmp_path / "root")).sources
    assert (source.id, source.split, source.box) == ("test-00a", "test", "registered")
    assert source.hr.endswith("00a_0.png")
    assert str(source.ref).endswith("00a_1.png")
    assert source.lr is None


def test_cufed5_is_registered_or_refused_with_the_reason(tmp_path):
    save_cufed5(tmp_path / "root", "ab", "a")
    registered, same = find("cufed5", str(tmp_path / "root")).sources
    triplet = load_triplet(registered, job(tmp_path / "root"), Pairing(pair=QUICK))
    assert triplet.provenance["registration"]["decision"] == "registered"
    with pytest.raises(NotRegistered, match=r"test-00b: both pictures show the same view"):
        load_triplet(same, job(tmp_path / "root"), Pairing(pair=QUICK))


@pytest.mark.parametrize(
    "names",
    [
        ("W/a.jpg", "T/a.jpg"),
        ("wide/a.jpg", "tele/a.jpg"),
        ("a_W.jpg", "a_T.jpg"),
        ("a/W.jpg", "a/T.jpg"),
        ("a/wide.png", "a/tele.jpg"),
    ],
)
def test_hzsr_pairs_wide_and_tele(tmp_path, names):
    for name in names:
        save(tmp_path / name, textured(24, 32, 0))
    (source,) = find("hzsr", str(tmp_path)).sources
    assert (source.id, source.split, source.box) == ("test-a", "test", "registered")
    assert source.hr.endswith(names[0])
    assert str(source.ref).endswith(names[1])


def test_hzsr_names_what_lacks_its_partner(tmp_path):
    for name in ("a_W.jpg", "a_T.jpg", "b_W.jpg", "other.jpg"):
        save(tmp_path / name, textured(24, 32, 0))
    orphans = find("hzsr", str(tmp_path)).orphans
    assert orphans == {"test-b": "test-b: no tele picture of that stem"}


def of_nikon(folder: str, *names: str) -> list[str]:
    return [f"{folder}/{name}.png" for name in names] + [
        f"{split}_{kind}/b_x1.png" for split in ("train", "test") for kind in ("LR", "HR")
    ]


@pytest.mark.parametrize(
    ("layout", "names", "line"),
    [
        (
            "hzsr",
            ["a_w.png", "a_wide.png", "a_t.png"],
            r"a_w\.png and .*a_wide\.png: both .* be a;",
        ),
        ("hzsr", ["a/b_W.png", "a-b_W.png", "a-b_T.png"], "both would be a-b; keep or rename one"),
        ("hzsr", ["W/a.png", "w/b.png", "T/a.png"], "2 folders are named w; keep one"),
        ("hzsr", ["W/a.png", "T/a.png", "wide/b.png", "tele/b.png"], "W and T beside wide and"),
        ("selfdzsr-nikon", of_nikon("train_HR", "a_x2", "a_x4"), "both would be a; keep or"),
        (
            "selfdzsr-iphone",
            [f"train/{kind}/{name}.png" for kind in ("LR", "Ref") for name in ("a/b_c", "a_b/c")],
            r"c\.png: another video has a picture a_b_c too",
        ),
        (
            "selfdzsr-iphone",
            ["train/LR/a/b_c.png", "train/Ref/a_b/c.png"],
            r"c\.png: another video has a picture a_b_c too",
        ),
    ],
)
def test_two_pictures_of_one_name_are_refused(tmp_path, layout, names, line):
    for name in names:
        save(tmp_path / name, textured(24, 32, 0))
    with pytest.raises(ValueError, match=line):
        find(layout, str(tmp_path))


@pytest.mark.parametrize(
    ("layout", "line"),
    [
        ("hzsr", "no folders W and T, nor pictures called"),
        ("cufed5", "no pictures called NNN_0"),
        ("selfdzsr-nikon", "no folder train_LR; found"),
        ("selfdzsr-iphone", "no folder train; found"),
    ],
)
def test_another_tree_is_refused_in_one_line(tmp_path, layout, line):
    save(tmp_path / "pictures" / "a.png", textured(24, 32, 0))
    with pytest.raises((ValueError, FileNotFoundError), match=line) as refused:
        find(layout, str(tmp_path))
    assert "\n" not in str(refused.value)
