import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from sddusr.data import sample_images
from sddusr.data.layouts import find, hold_out
from sddusr.data.loading import Job, load_triplet
from sddusr.data.prepare import Recipe, ShardPlan, ShardReport, make_shard, plan_shards
from sddusr.data.schema import check_sizes
from sddusr.data.source_files import Found, Source
from sddusr.geometry.box import Box
from sddusr.imaging.images import read_rgb
from tests.conftest import textured

RECIPE = Recipe(window_px=16, stride_px=8)


def save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture)


def save_triplet(top: Path, stem: str, ref: str = "Ref", box: Box | None = None) -> None:
    hr = textured(48, 64, seed=len(stem))
    save(top / "HR" / f"{stem}.png", hr)
    save(top / "LR" / f"{stem}.png", cv2.resize(hr, (32, 24), interpolation=cv2.INTER_AREA))
    box = box or Box(0, 48, 0, 64)
    save(top / ref / f"{stem}.png", hr[box.y0 : box.y1, box.x0 : box.x1])


def job(root: Path, out: Path | str = "", *, quarantine: bool = False) -> Job:
    return Job(root=str(root), out=str(out), quarantine=quarantine, max_pixels=10**6)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for stem in ("a", "bb", "ccc"):
        save_triplet(tmp_path / "data", stem)
    return tmp_path / "data"


@pytest.fixture
def dusr_real(tmp_path: Path) -> Path:
    root, box = tmp_path / "dusr", Box(9, 35, 11, 51)
    for stem in ("0001", "0002"):
        save_triplet(root / "train", stem, "Ref_full")
        save_triplet(root / "test", stem, "Ref_SIFT", box)
        save(root / "test" / "LR_center" / f"{stem}.png", textured(13, 20, 0))
    boxes = {"0001": list(box), "0002.png": list(box)}
    (root / "test" / "coords.json").write_text(json.dumps(boxes))
    return root


def test_folders_pair_by_stem_whatever_extension_and_case(folders):
    (folders / "LR").rename(folders / "lr")
    (folders / "Ref").rename(folders / "rEF")
    save(folders / "HR" / "a.BMP", textured(48, 64, 1))
    (folders / "HR" / "a.png").unlink()
    (folders / "HR" / ".DS_Store").write_bytes(b"x")
    (folders / "HR" / "notes.txt").write_text("x")
    found = find("folders", str(folders))
    assert [source.id for source in found.sources] == ["a", "bb", "ccc"]
    assert not found.orphans
    assert found.sources[0].hr.endswith("HR/a.BMP")


def test_dusr_real_has_boxes_for_tests_and_whole_refs_for_training(dusr_real):
    found = find("dusr-real", str(dusr_real))
    assert [(s.id, s.split) for s in found.sources] == [
        ("test-0001", "test"),
        ("test-0002", "test"),
        ("train-0001", "train"),
        ("train-0002", "train"),
    ]
    for source in found.sources:
        triplet = load_triplet(source, job(dusr_real))
        expected = Box(9, 35, 11, 51) if source.split == "test" else Box(0, 48, 0, 64)
        assert triplet.center_box == expected
        half = cv2.resize(triplet.hr, (32, 24), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(half, triplet.lr)
        assert triplet.provenance["lr"]["file"] == f"{source.split}/LR/{source.id[-4:]}.png"


@pytest.mark.parametrize("member", ["LR", "Ref", "HR"])
def test_missing_members_are_named(folders, member):
    (folders / member / "bb.png").unlink()
    found = find("folders", str(folders))
    assert [source.id for source in found.sources] == ["a", "ccc"]
    assert found.orphans == {"bb": f"bb: no {member.lower()} picture of that stem"}


def missing_folder(root: Path) -> None:
    (root / "Ref").rename(root / "Reference")


def same_stem(root: Path) -> None:
    save(root / "LR" / "a.jpg", textured(24, 32, 0))


def two_indexes(root: Path) -> None:
    (root / "one.json").write_text("{}")
    (root / "two.json").write_text("{}")


def bad_box(root: Path) -> None:
    (root / "boxes.json").write_text('{"a": [0, 1, 2.5, "x"]}')


def bad_json(root: Path) -> None:
    (root / "boxes.json").write_bytes(b'\xff\xfe{"a"')


def deep_json(root: Path) -> None:
    (root / "boxes.json").write_text("[" * 100_000)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing_folder, r"no folder Ref; found \['HR', 'LR', 'Reference'\]"),
        (same_stem, "two pictures of the stem a"),
        (two_indexes, "2 JSON files"),
        (bad_box, r"boxes\.json: a is .*need \[y0, y1, x0, x1\]"),
        (bad_json, r"boxes\.json: not valid JSON"),
        (deep_json, r"boxes\.json: not valid JSON"),
    ],
)
def test_what_is_wrong_with_a_dataset_is_said(folders, spoil: Callable[[Path], None], message):
    spoil(folders)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find("folders", str(folders))


def test_missing_coordinates_are_said(dusr_real):
    (dusr_real / "test" / "coords.json").write_text('{"0001": [9, 35, 11, 51], "../0002": [0]}')
    with pytest.raises(ValueError, match=r"\.\./0002 is \[0\]"):
        find("dusr-real", str(dusr_real))
    (dusr_real / "test" / "coords.json").write_text('{"0001": [9, 35, 11, 51]}')
    assert find("dusr-real", str(dusr_real)).orphans == {
        "test-0002": "test-0002: no centre box in the coordinates file"
    }
    (dusr_real / "test" / "coords.json").unlink()
    with pytest.raises(ValueError, match=r"no \*\.json with the boxes"):
        find("dusr-real", str(dusr_real))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find("dusr-real", str(dusr_real / "nowhere"))


def test_split_folders_and_centred_refs(tmp_path):
    save_triplet(tmp_path / "train", "a")
    save_triplet(tmp_path / "test", "a", box=Box(10, 35, 12, 50))
    found = find("folders", str(tmp_path))
    assert [(s.id, s.split) for s in found.sources] == [("test-a", "test"), ("train-a", "train")]
    centers = [load_triplet(source, job(tmp_path)).center_box for source in found.sources]
    assert centers == [Box(11, 36, 13, 51), Box(0, 48, 0, 64)]


def save_pairs(top: Path, wide: str, tele: str, stems: str) -> None:
    for stem in stems:
        for folder in (wide, tele):
            save(top / folder / f"{stem}.jpg", textured(24, 32, 0))


@pytest.mark.parametrize("split", ["", "test"])
def test_pairs_are_wide_and_tele_pictures_of_one_stem(tmp_path, split):
    save_pairs(tmp_path / split, "Wide", "TELE", "ab")
    (tmp_path / split / "Wide" / "b.jpg").unlink()
    save_pairs(tmp_path / split, "Wide", "notes", "c")
    found = find("pairs", str(tmp_path))
    prefix = f"{split}-" if split else ""
    (source,) = found.sources
    assert (source.id, source.split) == (f"{prefix}a", split or "train")
    assert source.hr.endswith("Wide/a.jpg")
    assert (source.ref or "").endswith("TELE/a.jpg")
    assert source.lr is None
    assert source.box == "registered"
    assert found.orphans == {
        f"{prefix}b": f"{prefix}b: no wide picture of that stem",
        f"{prefix}c": f"{prefix}c: no tele picture of that stem",
    }


@pytest.mark.parametrize("wide", ["HR", "LR/x1"])
def test_camerafusion_has_the_wide_picture_as_hr_and_the_whole_tele_picture(tmp_path, wide):
    for split in ("train", "val", "test"):
        save_pairs(tmp_path / split, wide, "Ref/x1", "ab")
        save_pairs(tmp_path / split, "LR/x2", "Ref/x2", "a")
    found = find("camerafusion", str(tmp_path))
    ids = ["test-a", "test-b", "train-a", "train-b", "val-a", "val-b"]
    assert [source.id for source in found.sources] == ids
    assert not found.orphans
    for source in found.sources:
        assert f"/{source.split}/{wide}/" in source.hr
        assert f"/{source.split}/Ref/x1/" in (source.ref or "")
        assert source.lr is None
        assert source.box == "registered"


def test_a_folder_that_is_not_camerafusion_is_said(tmp_path):
    save_pairs(tmp_path / "test", "HR", "Ref/x2", "a")
    with pytest.raises(FileNotFoundError, match=r"Ref: no folder x1; found \['x2'\]"):
        find("camerafusion", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no folder wide"):
        find("pairs", str(tmp_path))


def sources(num: int) -> list[Source]:
    return [
        Source(id=f"{i:03}", scene=f"{i // 2}", split="train", hr="h", lr="l", ref="r", box="whole")
        for i in range(num)
    ]


def test_a_held_out_scene_never_trains_and_order_does_not_choose():
    held = hold_out(sources(40), 5)
    scenes = {split: {s.scene for s in held if s.split == split} for split in ("train", "val")}
    assert len(scenes["val"]) == 5
    assert not scenes["train"] & scenes["val"]
    assert {s.id: s.split for s in hold_out(sources(40)[::-1], 5)} == {s.id: s.split for s in held}
    assert scenes["val"] != {str(i) for i in range(5)}
    larger = {s.scene for s in hold_out(sources(42), 5) if s.split == "val"}
    assert len(scenes["val"] - larger) <= 1
    with pytest.raises(ValueError, match="--hold-out is 20, need less than the 20"):
        hold_out(sources(40), 20)


def test_plans_depend_on_the_sources_alone():
    plans = plan_shards(sources(10), RECIPE, 4)
    assert plans == plan_shards(sources(10)[::-1], RECIPE, 4)
    assert [s.id for plan in plans for s in plan.sources] == [s.id for s in sources(10)]
    assert [plan.name for plan in plans] == [f"train-0000{i}.parquet" for i in range(3)]


def test_a_held_out_picture_keeps_its_centre_half(folders):
    found = find("folders", str(folders))
    held = next(s for s in hold_out(found.sources, 1) if s.split == "val")
    triplet = load_triplet(held, job(folders))
    assert triplet.center_box == Box(12, 36, 16, 48)
    np.testing.assert_array_equal(triplet.ref, triplet.hr[12:36, 16:48])
    check_sizes(triplet)


def test_samples_split_once_and_are_made_alike_every_time():
    found: Found = find("samples", "")
    splits = {s.scene: s.split for s in found.sources}
    assert len(splits) == len(found.sources)
    assert {"train", "val", "test"} == set(splits.values())
    source = next(s for s in found.sources if s.id == "coffee")
    pair = [load_triplet(source, job(Path())) for _ in range(2)]
    np.testing.assert_array_equal(pair[0].lr, pair[1].lr)
    np.testing.assert_array_equal(pair[0].ref, pair[1].ref)
    box = pair[0].center_box
    assert 0.2 < box.height * box.width / pair[0].hr[..., 0].size < 0.3
    up = cv2.resize(pair[0].lr, pair[0].hr.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    assert 20 < psnr(up, pair[0].hr) < 35
    assert psnr(pair[0].ref, pair[0].hr[box.y0 : box.y1, box.x0 : box.x1]) > 20


def psnr(left: np.ndarray, right: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((left.astype(float) - right) ** 2)))


def test_samples_that_are_gone_are_said(monkeypatch):
    monkeypatch.setitem(sample_images.PICTURES, "val", {"gone.png": ("skimage", "data")})
    with pytest.raises(FileNotFoundError, match=r"skimage has no data/gone\.png"):
        find("samples", "")


def plan_of(root: Path) -> ShardPlan:
    (plan,) = plan_shards(find("folders", str(root)).sources, RECIPE, 8)
    return plan


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def shrink(path: Path) -> None:
    save(path, textured(46, 64, 0))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (truncate, r"HR/bb\.png: truncated or damaged"),
        (shrink, "bb: HR is 46x64, need 48x64"),
        (empty, r"HR/bb\.png: no picture"),
    ],
)
def test_a_bad_triplet_stops_the_work_or_is_set_aside(folders, tmp_path, spoil, reason):
    spoil(folders / "HR" / "bb.png")
    stopped = make_shard(plan_of(folders), job(folders, tmp_path / "out"))
    assert stopped.entry is None
    assert_matches(reason, stopped.error)
    assert not list((tmp_path / "out").iterdir())
    report = make_shard(plan_of(folders), job(folders, tmp_path / "out", quarantine=True))
    assert report.entry
    assert_matches(reason, report.quarantined.pop("bb"))
    assert not report.quarantined
    assert {id.partition("@")[0] for id in report.entry.ids} == {"a", "ccc"}
    assert ShardReport.from_json(report.to_json()) == report


def assert_matches(pattern: str, text: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)


def test_a_finished_shard_is_kept_and_a_damaged_or_outdated_one_made_again(folders, tmp_path):
    out = tmp_path / "out"
    first = make_shard(plan_of(folders), job(folders, out))
    shard = out / "train-00000.parquet"
    written = shard.stat().st_mtime_ns
    again = make_shard(plan_of(folders), job(folders, out))
    assert again.reused
    assert again.entry == first.entry
    assert shard.stat().st_mtime_ns == written

    data = bytearray(shard.read_bytes())
    data[3000] ^= 1
    shard.write_bytes(data)
    repaired = make_shard(plan_of(folders), job(folders, out))
    assert not repaired.reused
    assert repaired.entry == first.entry

    save(folders / "HR" / "a.png", cv2.add(cv2.imread(str(folders / "HR" / "a.png")), 9))
    outdated = make_shard(plan_of(folders), job(folders, out))
    assert not outdated.reused
    assert outdated.entry
    assert first.entry
    assert outdated.entry.content_sha256 != first.entry.content_sha256


def test_what_was_set_aside_is_reported_when_the_user_asks_to_stop(folders, tmp_path):
    truncate(folders / "HR" / "bb.png")
    setting_aside = job(folders, tmp_path / "out", quarantine=True)
    make_shard(plan_of(folders), setting_aside)
    assert make_shard(plan_of(folders), setting_aside).quarantined
    assert make_shard(plan_of(folders), setting_aside).reused
    assert make_shard(plan_of(folders), job(folders, tmp_path / "out")).error


def test_provenance_holds_the_hash_of_each_source(folders):
    source = find("folders", str(folders)).sources[0]
    provenance = load_triplet(source, job(folders)).provenance
    for member, folder in (("lr", "LR"), ("hr", "HR"), ("ref", "Ref")):
        picture = read_rgb(f"{folders}/{folder}/a.png")
        assert provenance[member] == {"file": f"{folder}/a.png", "sha256": picture.sha256}
