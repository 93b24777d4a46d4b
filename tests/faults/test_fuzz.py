"""Damaged files of every kind are read whole or refused in one line.

No crash, no hang, no other error.

FUZZ_SECONDS (60 by default) is shared by the readers. What was found stays in `corpus` and is
replayed: the part of a name before its first hyphen says which reader gets the file.
"""

import hashlib
import io
import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sddusr import checkpoint as ck
from sddusr.checkpoint import load_model
from sddusr.config import DEMO
from sddusr.data.dataset import ShardSet
from sddusr.data.layouts import read_boxes
from sddusr.data.shard import Shard
from sddusr.evaluation.metrics import Scores
from sddusr.evaluation.results import (
    ImageScores,
    gains,
    summarize,
    to_text,
)
from sddusr.evaluation.tables import read_tables, write_tables
from sddusr.imaging.images import read_picture
from sddusr.runs.own_folders import check_run_folder
from tests.conftest import textured
from tests.test_checkpoint import a_model, write
from tune.space_files import find_space

SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
CORPUS = Path(__file__).parent / "corpus"
SLOW_S = 20.0
REFUSALS = (ValueError, FileNotFoundError)


def read_shard(path: Path) -> object:
    shard = Shard(str(path))
    try:
        return [shard.read(row) for row in range(shard.num_rows)]
    finally:
        shard.close()


def read_manifest(path: Path) -> object:
    shards = ShardSet(str(path.parent))
    return [shards.read(row) for split in ("train", "val") for row in shards.rows(split)[:1]]


def read_results(path: Path) -> object:
    images, _ = read_tables(str(path.parent))
    return to_text(summarize(images), gains(images, "bicubic"), "") if images else None


def read_checkpoint(path: Path) -> object:
    folder = path.parent
    names = [file.name for file in folder.iterdir() if file.name != ck.HASHES]
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / ck.HASHES).write_text(json.dumps(hashes))
    return load_model(str(folder))


READERS: dict[str, Callable[[Path], object]] = {
    "picture": lambda path: read_picture(str(path), 4_000_000),
    "shard": read_shard,
    "manifest": read_manifest,
    "checkpoint": read_checkpoint,
    "run": lambda path: check_run_folder(str(path.parent)),
    "boxes": lambda path: read_boxes([str(path)]),
    "space": lambda path: find_space(str(path), DEMO),
    "results": read_results,
}


def encoded(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(textured(48, 64, 1)).save(file, kind, **options)
    return file.getvalue()


def seeds(reader: str, folder: Path, shards: ShardSet) -> list[Path]:
    """Good files for a reader, in a folder of their own."""
    folder.mkdir(parents=True)
    if reader == "picture":
        kinds = {"png": {}, "jpg": {"quality": 90}, "tif": {}, "webp": {}, "bmp": {}, "avif": {}}
        for extension, options in kinds.items():
            kind = {"jpg": "JPEG", "tif": "TIFF"}.get(extension, extension.upper())
            (folder / f"picture.{extension}").write_bytes(encoded(kind, **options))
        return sorted(folder.iterdir())
    if reader in ("shard", "manifest"):
        shutil.copytree(shards.root, folder, dirs_exist_ok=True)
        name = "train-00000.parquet" if reader == "shard" else "manifest.json"
        return [folder / name]
    if reader == "checkpoint":
        write(folder, a_model())
        return [folder / ck.MODEL, folder / ck.CONFIG, folder / ck.TRAIN_STATE]
    if reader == "results":
        rows = [
            ImageScores(id, method, "png8", Scores(30.0, 0.9, 31.0, 0.9, 29.0, 0.9), None)
            for id in ("a", "b")
            for method in ("bicubic", "ours")
        ]
        write_tables(str(folder), rows, summarize(rows), gains(rows, "bicubic"), "", {"data": "d"})
        return [folder / "per_image.parquet", folder / "summary.json"]
    texts = {
        "run": ("mlflow.json", '{"tracking_uri": "sqlite:////x.db", "run_id": "1", "key": "k"}'),
        "boxes": ("boxes.json", '{"a": [0, 8, 0, 8], "b.png": [2, 10, 2, 10]}'),
        "space": ("space.yaml", "data.crop-px: [16, 32]\noptim.lr: {loguniform: [1e-4, 1e-2]}"),
    }  # fmt: skip
    (folder / texts[reader][0]).write_text(texts[reader][1])
    return [folder / texts[reader][0]]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, cut out, doubled, zeroed or cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        if not changed:
            break
        at, length = rng.randrange(len(changed)), rng.choice([1, 1, 2, 4, 64, 1000])
        kind = rng.randrange(6)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length]
        elif kind == 4:
            changed[at : at + length] = bytes(len(changed[at : at + length]))
        else:
            del changed[at:]
    return bytes(changed)


def outcome(reader: str, path: Path, data: bytes) -> str:
    path.write_bytes(data)
    started = time.monotonic()
    try:
        READERS[reader](path)
        result = "accepted"
    except REFUSALS as error:
        result = "refused" if str(error).strip() else "refused without a word"
    assert result != "refused without a word"
    assert time.monotonic() - started < SLOW_S, "a file that takes too long"
    return result


@pytest.mark.timeout(SECONDS * 3 + 300)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_are_read_or_refused(reader, tmp_path, tiny_shards, record_property):
    files = seeds(reader, tmp_path / reader, tiny_shards)
    good = {path: path.read_bytes() for path in files}
    for path, data in good.items():
        assert outcome(reader, path, data) == "accepted"
    counts, number, until = Counter(), 0, time.monotonic() + SECONDS / len(READERS)
    while time.monotonic() < until or number < 20:
        path = files[number % len(files)]
        data = mutated(good[path], random.Random(f"{reader} {number}"))
        try:
            counts[outcome(reader, path, data)] += 1
        except BaseException:
            found = Path(
                os.environ.get("FUZZ_KEEP", str(tmp_path)), f"{reader}-{number}{path.suffix}"
            )
            found.write_bytes(data)
            print(f"found by mutation {number} of {path.name}, kept in {found}")
            raise
        finally:
            path.write_bytes(good[path])
        number += 1
    record_property("fuzz", dict(counts))
    print(f"{reader}: {number} tried, {dict(counts)}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_what_was_found_once_is_refused(path, tmp_path, tiny_shards):
    reader = path.name.partition("-")[0]
    files = seeds(reader, tmp_path / reader, tiny_shards)
    target = next((file for file in files if file.suffix == path.suffix), files[0])
    assert outcome(reader, target, path.read_bytes()) == "refused"


@pytest.mark.parametrize("change", ["nothing", "a pixel"])
def test_an_accepted_picture_is_the_right_one(tmp_path, change):
    """Formats with checksums of their own give the very picture or nothing."""
    data = encoded("PNG")
    pixels = np.array(Image.open(io.BytesIO(data)))
    path = tmp_path / "picture.png"
    path.write_bytes(data if change == "nothing" else data.replace(data[100:104], b"abcd", 1))
    if change == "nothing":
        np.testing.assert_array_equal(read_picture(str(path)).pixels, pixels)
    else:
        with pytest.raises(ValueError, match="truncated or damaged"):
            read_picture(str(path))
