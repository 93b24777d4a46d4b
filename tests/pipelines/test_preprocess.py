import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from pipelines import preprocess as pipeline
from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.ray_runtime import shard_tasks
from sddusr.config import DataConfig
from sddusr.data.dataset import ShardSet
from sddusr.data.folder_lock import LockedError, hold_lock
from sddusr.data.source_files import Found
from sddusr.data.stream import BatchStream
from sddusr.registration.color_match import ColorConfig
from sddusr.registration.pairing import PairConfig
from tests.conftest import textured
from tests.phone import QUICK, save_pair


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Six training triplets of 40x48 LR pixels and two for tests, Ref whole."""
    root = tmp_path / "data"
    for split, stems in (("train", "abcdef"), ("test", "yz")):
        for stem in stems:
            hr = textured(80, 96, ord(stem))
            lr = cv2.resize(hr, (48, 40), interpolation=cv2.INTER_AREA)
            for member, picture in (("HR", hr), ("LR", lr), ("Ref", hr)):
                path = root / split / member / f"{stem}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(path), picture)
    return root


def options(data: Path, out: Path, /, **changes) -> PreprocessOptions:
    base = PreprocessOptions(
        layout="folders",
        root=str(data),
        out=str(out),
        hold_out=1,
        window_px=32,
        pictures_per_shard=2,
    )
    return replace(base, **changes)


def mtimes(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}


@pytest.mark.usefixtures("ray_session")
def test_a_folder_is_made_restarted_and_kept_from_mixing(dataset, tmp_path, capfd):
    out = tmp_path / "out"
    manifest = preprocess(options(dataset, out))
    assert manifest["counts"] == {"train": 5 * 2 * 2, "val": 1, "test": 2}
    shards = ShardSet(str(out))
    shards.verify()
    scenes = {split: {t.scene for t in shards.iterate(split)} for split in manifest["counts"]}
    assert not scenes["train"] & scenes["val"]
    assert len(shards.rows("train")) == 20

    # Killed before the end: no manifest, one shard gone, a temporary left behind.
    before = mtimes(out)
    (out / "manifest.json").unlink()
    (out / "train-00001.parquet").unlink()
    (out / ".train-00001.parquet.0.tmp").write_bytes(b"half")
    assert preprocess(options(dataset, out)) == manifest
    after = mtimes(out)
    assert {name for name in before if before[name] != after[name]} == {"train-00001.parquet"}
    assert not list(out.glob(".*"))

    # Other parameters do not mix with what is there.
    with pytest.raises(ValueError, match=r"another window_px.*--overwrite"):
        preprocess(options(dataset, out, window_px=40, stride_px=16))
    assert ShardSet(str(out)).content_hash == manifest["content_hash"]
    other = preprocess(options(dataset, out, hold_out=0, pictures_per_shard=6, overwrite=True))
    assert set(mtimes(out)) == {"train-00000.parquet", "test-00000.parquet"}
    assert other["counts"]["val"] == 0

    # A picture that cannot be used stops the work with one line, or is set aside and counted.
    path = dataset / "train" / "LR" / "c.png"
    path.write_bytes(path.read_bytes()[:-50])
    (dataset / "train" / "Ref" / "d.png").unlink()
    again = options(dataset, tmp_path / "second")
    with pytest.raises(ValueError, match=r"train-d: no ref picture.*--on-error quarantine"):
        preprocess(again)
    with pytest.raises(ValueError, match=r"2 of 8 triplets cannot be used.*max-errors-share 0\.1"):
        preprocess(replace(again, on_error="quarantine"))
    assert not (tmp_path / "second" / "manifest.json").exists()
    kept = preprocess(replace(again, on_error="quarantine", max_errors_share=0.5))
    assert set(kept["quarantined"]) == {"train-c", "train-d"}
    assert "c.png: truncated" in kept["quarantined"]["train-c"]
    (dataset / "train" / "HR" / "d.png").unlink()
    (dataset / "train" / "LR" / "d.png").unlink()
    with pytest.raises(ValueError, match=r"c\.png: truncated"):
        preprocess(again)


@pytest.mark.usefixtures("ray_session")
def test_a_phones_pairs_become_a_training_set_or_sheets(tmp_path, caplog):
    root, out, sheets = tmp_path / "phone", tmp_path / "out", tmp_path / "sheets"
    for seed, stem in enumerate("abc"):
        save_pair(root, stem, seed)
    save_pair(root, "wrong", 5, other=9)
    save_pair(root / "spare", "lone", 6)
    (root / "spare" / "wide" / "lone.png").rename(root / "wide" / "lone.png")
    asked = PreprocessOptions(
        layout="pairs",
        root=str(root),
        out=str(out),
        window_px=64,
        margin_px=24,
        hold_out=1,
        pair=QUICK,
    )

    with pytest.raises(ValueError, match=r"lone: no tele picture.*--on-error quarantine"):
        preprocess(asked)
    tolerant = replace(asked, on_error="quarantine", max_errors_share=0.5)
    manifest = preprocess(tolerant)
    assert set(manifest["quarantined"]) == {"wrong", "lone"}
    assert preprocess(tolerant) == manifest
    assert manifest["counts"]["val"] == 1
    assert manifest["parameters"]["pairing"]["degradation"] == "bicubic"
    shards = ShardSet(str(out))
    (held,) = shards.iterate("val")
    assert held.hr.shape == (320, 400, 3)
    assert held.provenance["registration"]["decision"] == "registered"
    data = DataConfig(crop_px=32, shift_px=(8, 24))
    with BatchStream(shards, data, seed=0, batch_size=4) as stream:
        assert next(stream).ref.shape == (4, 3, 64, 64)
    with pytest.raises(ValueError, match="another pairing"):
        preprocess(replace(tolerant, degradation="camera"))

    with caplog.at_level("INFO"):
        assert pipeline.main(replace(asked, out=None, preview=str(sheets))) == 1
    assert {path.name for path in sheets.iterdir()} == {
        f"{x}.jpg" for x in ("a", "b", "c", "wrong")
    }
    refused = [text for text in caplog.messages if text.startswith("refused: ")]
    assert [text.split(":")[1] for text in refused] == [" lone", " wrong"]


def test_sets_of_other_layouts_are_named_by_what_applies_to_them(dataset, tmp_path):
    assert "pairing" not in options(dataset, tmp_path).parameters
    assert "margin_px" not in options(dataset, tmp_path).parameters
    assert options(dataset, tmp_path, layout="pairs").parameters["margin_px"] == 96


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_px": 33}, "--window-px is 33, need an even number"),
        ({"stride_px": 34}, "--stride-px is 34, need an even number up to"),
        ({"stride_px": 0}, "--stride-px is 0"),
        ({"pictures_per_shard": 0}, "--pictures-per-shard is 0"),
        ({"max_errors_share": 1.5}, "--max-errors-share is 1.5"),
        ({"max_megapixels": 5000.0}, "--max-megapixels is 5000.0"),
        ({"layout": "samples"}, "samples has none"),
        ({"root": None}, "--root is None"),
        ({"out": None}, "--out is None and --preview None, need one"),
        ({"preview": "sheets"}, "--preview sheets, need one"),
        ({"out": None, "preview": "sheets"}, "leave them out for folders"),
        ({"degradation": "camera"}, "leave them out for folders"),
        ({"pair": PairConfig(color=ColorConfig(kind="none"))}, "leave them out for folders"),
        ({"margin_px": 7}, "--margin-px is 7, need an even number"),
    ],
)
def test_bad_options_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        options(tmp_path, tmp_path, **changes)


def test_the_command_answers_bad_input_with_one_line(tmp_path):
    script = Path(pipeline.__file__)
    command = [sys.executable, str(script), "folders", "--root", "nowhere", "--out", "x"]
    environment = os.environ | {"PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/nowhere: no such folder\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("ray_session")
def test_a_second_start_into_the_same_folder_is_refused_by_name(dataset, tmp_path):
    out = tmp_path / "out"
    with (
        hold_lock(str(out / pipeline.LOCK), "shards"),
        pytest.raises(LockedError, match=r"out: another process is writing there"),
    ):
        preprocess(options(dataset, out))
    assert not list(out.glob("*.parquet"))
    assert preprocess(options(dataset, out))


def test_a_place_that_another_node_does_not_see_is_refused_before_any_work(
    dataset, tmp_path, monkeypatch, ray_session
):
    """Its shards would stay on that node, and the manifest would tell of them."""
    asked = {}

    def refuse(*, files, folders):
        asked.update(files | folders)
        raise ValueError("node 10.0.0.2 does not see it")

    monkeypatch.setattr(shard_tasks, "check_seen_by_all", refuse)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="does not see"):
        preprocess(options(dataset, out))
    assert asked["--out"] == str(out)
    assert Path(asked["--root"]).is_file()
    assert not list(out.glob("*.parquet"))


def test_a_plan_holds_no_credentials(tmp_path, monkeypatch):
    """The folder is handed on."""
    root = "s3://me:passw0rd@lab/pictures"
    monkeypatch.setattr(pipeline, "find", lambda *_: Found([], {"x": "x is missing"}))
    given = PreprocessOptions(
        layout="folders", root=root, out=str(tmp_path / "out"), on_error="quarantine"
    )
    with pytest.raises(ValueError, match="1 of 1 triplets cannot be used"):
        preprocess(given)
    plan = (tmp_path / "out" / "plan.json").read_text()
    assert "lab/pictures" in plan
    assert "passw0rd" not in plan


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", '{"name": "a web page"}'),
        ("plan.json", '{"tasks": []}'),
        ("plan.json", "[]"),
        ("train-00000.parquet", "another project's"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_that_are_not_ours_are_never_replaced(dataset, tmp_path, name, content, overwrite):
    out = tmp_path / "mine"
    out.mkdir()
    (out / name).write_text(content)
    with pytest.raises(ValueError, match=rf"holds {re.escape(name)}, which no run of ours wrote"):
        preprocess(options(dataset, out, overwrite=overwrite))
    assert {path.name: path.read_text() for path in out.iterdir()} == {name: content}
