import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sddusr import storage
from sddusr.data.dataset import ShardSet
from sddusr.data.manifest import (
    MANIFEST,
    ShardEntry,
    build_manifest,
    read_manifest,
    write_manifest,
)
from sddusr.data.schema import SCHEMA, check_sizes, from_record, to_record
from sddusr.data.shard import Shard, write_shard
from sddusr.geometry.box import Box
from sddusr.types import Triplet
from tests.conftest import make_triplet


def assert_same(left: Triplet, right: Triplet) -> None:
    for name, one, other in zip(Triplet._fields, left, right, strict=True):
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other, err_msg=name)
        else:
            assert one == other, name


def write_set(root: str | Path, triplets: list[Triplet]) -> ShardSet:
    place = storage.join(root, "train-00000.parquet")
    entry = write_shard(place, "train", triplets, {"made": "here"})
    write_manifest(str(root), build_manifest([entry], {}, {}))
    return ShardSet(str(root))


@settings(max_examples=15, deadline=None)
@given(st.integers(8, 40), st.integers(8, 40), st.integers(0, 99))
def test_a_row_of_any_size_comes_back_unchanged(tmp_path_factory, height, width, seed):
    root = tmp_path_factory.mktemp("set")
    box = Box(seed % 3, 2 * height - seed % 4, 1, 2 * width)
    triplets = [make_triplet(f"t{i}", "train", (height, width), box, seed + i) for i in range(2)]
    shards = write_set(root, triplets)
    for row, triplet in zip(shards.rows("train"), triplets, strict=True):
        assert_same(shards.read(row), triplet)


def test_shards_below_a_uri_with_a_query_are_found_again(secret_bucket):
    shards = write_set(storage.join(secret_bucket, "out"), [make_triplet(lr_shape=(8, 8))])
    assert [entry.name for entry in shards.entries] == ["train-00000.parquet"]
    assert [triplet.id for triplet in shards.iterate("train")] == ["picture"]


def test_rows_read_in_any_order_and_from_many_threads(tiny_shards):
    rows = tiny_shards.rows("train") * 8
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    with ThreadPoolExecutor(4) as pool:
        for row, triplet in zip(rows, pool.map(tiny_shards.read, rows), strict=True):
            assert triplet.id == row.id
            assert_same(triplet, make_triplet(row.id, seed=int(row.id.removeprefix("train-"))))


def test_every_flipped_bit_is_found_before_use(tmp_path):
    """Page checksums leave page headers and the footer out; nothing may slip through there."""
    triplets = [make_triplet(f"t{i}", lr_shape=(8, 8), seed=i) for i in range(3)]
    write_set(tmp_path, triplets)
    path = tmp_path / "train-00000.parquet"
    good, rng = path.read_bytes(), np.random.default_rng(0)
    found = 0
    positions = rng.permutation(len(good))[:600]
    for position in positions:
        damaged = bytearray(good)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        shards = ShardSet(str(tmp_path))
        try:
            read = [shards.read(row) for row in shards.rows("train")]
        except ValueError:
            found += 1
        else:  # a bit that no value depends on
            for one, other in zip(read, triplets, strict=True):
                assert_same(one, other)
        with pytest.raises(ValueError, match=r"train-00000\.parquet"):
            ShardSet(str(tmp_path)).verify()
    assert found > 0.9 * len(positions)


def test_damage_names_shard_and_row_group(tmp_path):
    shards = write_set(tmp_path, [make_triplet(f"t{i}", seed=i) for i in range(3)])
    path = tmp_path / "train-00000.parquet"
    data = bytearray(path.read_bytes())
    shards._shard(0)
    metadata = shards._shard(0)._file.metadata
    data[metadata.row_group(1).column(3).data_page_offset + 200] ^= 4
    path.write_bytes(data)
    shards = ShardSet(str(tmp_path))
    rows = shards.rows("train")
    shards.read(rows[0])
    with pytest.raises(ValueError, match=r"train-00000\.parquet: row group 1 is damaged"):
        shards.read(rows[1])


def test_a_truncated_or_missing_shard_is_refused_at_opening(tmp_path):
    write_set(tmp_path, [make_triplet()])
    path = tmp_path / "train-00000.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="the manifest says"):
        ShardSet(str(tmp_path))
    with pytest.raises(ValueError, match=r"damaged footer"):
        Shard(str(path))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"train-00000\.parquet"):
        ShardSet(str(tmp_path))


@pytest.mark.parametrize("name", ["../a.parquet", "/etc/passwd", "a\0b", "x/../../y", "", "."])
def test_a_name_in_the_manifest_cannot_lead_out(tmp_path, tiny_shards, name):
    shutil.copytree(tiny_shards.root, tmp_path / "set")
    path = tmp_path / "set" / MANIFEST
    tree = json.loads(path.read_text())
    tree["shards"][0]["name"] = name
    path.write_text(json.dumps(tree))
    with pytest.raises(ValueError, match="refused"):
        ShardSet(str(tmp_path / "set"))


def test_a_link_out_of_the_folder_is_refused(tmp_path, tiny_shards):
    shutil.copytree(tiny_shards.root, tmp_path / "set")
    shard = tmp_path / "set" / "train-00000.parquet"
    shard.rename(tmp_path / "outside.parquet")
    shard.symlink_to(tmp_path / "outside.parquet")
    with pytest.raises(ValueError, match="link that leads out"):
        ShardSet(str(tmp_path / "set"))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_fuzzed_manifest_gives_a_clear_error(tmp_path_factory, tiny_shards, data):
    root = tmp_path_factory.mktemp("fuzz")
    text = bytearray((Path(tiny_shards.root) / MANIFEST).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    (root / MANIFEST).write_bytes(text)
    with pytest.raises((ValueError, FileNotFoundError), match=str(root)):
        ShardSet(str(root))


def test_manifest_tells_contents_not_places(tmp_path):
    triplets = [make_triplet(f"t{i}", seed=i) for i in range(2)]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        entry = write_shard(f"{tmp_path}/{name}/s.parquet", "train", triplets, {"where": name})
        write_manifest(f"{tmp_path}/{name}", build_manifest([entry], {}, {}))
    other = [triplets[0], triplets[1]._replace(id="renamed")]
    (tmp_path / "c").mkdir()
    entry = write_shard(f"{tmp_path}/c/s.parquet", "train", other, {})
    write_manifest(f"{tmp_path}/c", build_manifest([entry], {}, {}))
    hashes = [ShardSet(f"{tmp_path}/{name}").content_hash for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_shard_describes_itself_as_it_was_written(tmp_path):
    entry = write_shard(f"{tmp_path}/s.parquet", "train", [make_triplet()], {})
    assert Shard(f"{tmp_path}/s.parquet").describe("train") == entry


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hr": np.zeros((100, 144, 3), np.uint8)}, "HR is 100x144, need 128x144"),
        ({"center_box": Box(0, 130, 0, 144)}, "inside HR's 128x144"),
        ({"center_box": Box(0, 64, 0, 144)}, "Ref is 128x144, need 64x144"),
        ({"detail": np.zeros((3, 3), np.float32)}, "detail is"),
    ],
)
def test_sizes_that_do_not_belong_together_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        to_record(make_triplet()._replace(**change))


def test_another_scale_is_refused():
    with pytest.raises(ValueError, match="scale is 4"):
        from_record(to_record(make_triplet()) | {"scale": 4})


def test_manifest_is_needed_and_of_this_schema(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"preprocess\.py"):
        ShardSet(str(tmp_path))
    (tmp_path / MANIFEST).write_text('{"schema_version": 99}')
    with pytest.raises(ValueError, match="schema version is 99"):
        ShardSet(str(tmp_path))


def test_a_row_that_unpacks_to_far_more_than_its_bytes_is_refused_unread(tmp_path):
    record = to_record(make_triplet())
    record |= {"lr": bytes(2 * 10**8), "lr_shape": [8000, 8000]}
    place = str(tmp_path / "train-00000.parquet")
    table = pa.Table.from_pylist([record], SCHEMA)
    pq.write_table(table, place, compression="zstd", use_dictionary=False)
    with pytest.raises(ValueError, match=r"row group 0 is damaged \(\d+ bytes would unpack to"):
        Shard(place)


def test_a_black_picture_of_12_megapixels_is_no_bomb(tmp_path):
    black = np.zeros((3000, 4000, 3), np.uint8)
    triplet = make_triplet("night", "test", (1500, 2000))
    dark = {"hr": black, "ref": black, "lr": black[::2, ::2].copy()}
    write_shard(f"{tmp_path}/test-00000.parquet", "test", [triplet._replace(**dark)], {})
    assert Shard(f"{tmp_path}/test-00000.parquet").read(0).hr.shape == black.shape


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("field", ["detail", "detail_quantiles"])
def test_detail_that_is_not_finite_is_refused(field, value):
    triplet = make_triplet()
    changed = getattr(triplet, field).copy()
    changed.flat[3] = value
    with pytest.raises(ValueError, match="detail is not finite"):
        check_sizes(triplet._replace(**{field: changed}))


def test_a_manifest_of_many_shards_is_checked_to_the_last(tmp_path):
    entries = [
        ShardEntry(
            name=f"train-{i:05d}.parquet",
            split="train",
            num_rows=1,
            num_bytes=i,
            sha256="a",
            footer_sha256="b",
            content_sha256=f"{i}",
            max_crop_px=32,
            ids=[f"{i}"],
        )
        for i in range(1000)
    ]
    write_manifest(str(tmp_path), build_manifest(entries, {}, {}))
    assert read_manifest(str(tmp_path)).entries == entries
    for change in ({"num_bytes": -1}, {"ids": ["a", "b"]}, {"split": "other"}, {"sha256": 3}):
        damaged = [*entries[:-1], entries[-1]._replace(**change)]
        place = tmp_path / "manifest.json"
        tree = json.loads(place.read_text()) | {"shards": [each._asdict() for each in damaged]}
        (tmp_path / "bad").mkdir(exist_ok=True)
        (tmp_path / "bad" / "manifest.json").write_text(json.dumps(tree))
        with pytest.raises(ValueError, match=r"entry 'train-00999.parquet' is damaged"):
            read_manifest(str(tmp_path / "bad"))
