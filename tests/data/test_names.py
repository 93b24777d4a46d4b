"""Names as people have them: composed, decomposed, long, not UTF-8, with brackets and colons."""

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import boto3
import numpy as np
import pytest

from sddusr import local_files, storage
from sddusr.data import folder_lock
from sddusr.data.layouts import find, read_boxes
from sddusr.data.prepare import _in_one_line
from sddusr.data.source_files import pictures_by_stem
from sddusr.imaging.images import write_png
from sddusr.photos.find_pairs import find_pairs
from sddusr.photos.jobs import result_places

PIXELS = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))


def picture(folder: Path, name: str) -> Path:
    write_png(str(folder / name), PIXELS)
    return folder / name


def test_macos_names_pair_with_linux_names(tmp_path):
    picture(tmp_path / "wide", f"{COMPOSED}.png")
    picture(tmp_path / "tele", f"{DECOMPOSED}.png")
    for wide, tele in (("wide", "tele"), ("wide/*.png", "tele/*.png")):
        (pair,) = find_pairs(str(tmp_path / wide), str(tmp_path / tele)).pairs
        assert pair.name == COMPOSED
        assert Path(pair.tele).exists()
    (source,) = find("pairs", str(tmp_path)).sources
    assert source.id == COMPOSED
    (tmp_path / "boxes.json").write_text(json.dumps({DECOMPOSED: [0, 8, 0, 8]}))
    assert list(read_boxes([str(tmp_path / "boxes.json")])) == [COMPOSED]


def test_two_folders_of_one_split_are_refused(tmp_path):
    for split, lens in itertools.product(("train", "Train"), ("wide", "tele")):
        picture(tmp_path / split / lens, "a.png")
    with pytest.raises(ValueError, match="2 folders are named train; keep one"):
        find("pairs", str(tmp_path))


@pytest.mark.parametrize(
    ("layout", "folders", "splits"),
    [
        ("pairs", ("wide", "tele"), "train, val, test"),
        ("pairs", ("train/wide", "train/tele"), "train, val, test"),
        ("dusr-real", ("train/LR", "train/Ref_full", "train/HR"), "train, test"),
        ("selfdzsr-iphone", ("train/LR/a", "train/Ref/a"), "train, test"),
    ],
)
def test_a_folder_that_looks_like_a_split_and_is_not_read_is_named(
    tmp_path, caplog, layout, folders, splits
):
    for folder in folders:
        picture(tmp_path / folder, "a.png")
    for name in ("LR", "Ref", "Ref_SIFT", "HR"):
        (tmp_path / "test" / name).mkdir(parents=True)
    (tmp_path / "boxes.json").write_text("{}")
    if layout == "pairs":
        shutil.rmtree(tmp_path / "test")
    assert find(layout, str(tmp_path)).sources
    assert not caplog.messages
    for name in ("validation", "Testing", "notes"):
        (tmp_path / name).mkdir()
    find(layout, str(tmp_path))
    assert f"not read: Testing, validation; splits are called {splits}" in caplog.text


def test_a_long_name_is_written_or_refused_before_the_work(tmp_path):
    name = "x" * 246 + ".png"
    path = picture(tmp_path, name)
    pairs = find_pairs(str(path), str(path)).pairs
    out = tmp_path / "out"
    (place,) = result_places(pairs, f"{out}/", None, False).values()
    storage.write_atomic(place, b"result")
    assert [file.name for file in out.iterdir()] == [name]
    with pytest.raises(ValueError, match=r"explain\.jpg: a name of 258 bytes, file systems take"):
        result_places(pairs, f"{out}/", None, False, explain=True)


def test_a_name_that_is_not_utf8_is_told_with_its_folder(tmp_path):
    picture(tmp_path, "ok.png")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("the file system takes no such name")
    with pytest.raises(ValueError, match=rf"{tmp_path}: the name b'caf\\xe9\.png' is not UTF-8"):
        pictures_by_stem(str(tmp_path))


def test_a_link_to_nothing_is_told_and_not_dropped(tmp_path):
    for folder in ("wide", "tele"):
        picture(tmp_path / folder, "a.png")
        (tmp_path / folder / "b.png").symlink_to("gone.png")
    pairs = find_pairs(str(tmp_path / "wide"), str(tmp_path / "tele")).pairs
    assert [pair.name for pair in pairs] == ["a", "b"]
    with pytest.raises(FileNotFoundError, match=r"b\.png: a link to gone\.png, which is not there"):
        storage.read_bytes(pairs[1].wide)


def test_brackets_in_a_pattern_say_what_they_are(tmp_path):
    for member in ("wides", "teles"):
        picture(tmp_path / "br [2024]" / member, "a.png")
    pattern = f"{tmp_path}/br [2024]/{{}}/*.png"
    with pytest.raises(FileNotFoundError, match=r"\[\.\.\.\] stands for one character, write \[\["):
        find_pairs(pattern.format("wides"), pattern.format("teles"))
    escaped = f"{tmp_path}/br [[]2024]/{{}}/*.png"
    assert find_pairs(escaped.format("wides"), escaped.format("teles")).pairs


ODD_NAMES = ["a#1.png", "a#2.png", "%41.png", "a b.png", "é.png", "100%.png", "a+b=c&d@e;f.png"]


def test_a_bucket_takes_names_as_they_are(bucket):
    for folder in (f"{bucket}/x", f"{bucket}/50% of é #1"):
        for name in ODD_NAMES:
            storage.write_atomic(storage.join(folder, name), name.encode())
        found = storage.list_files(folder)
        assert found == {name: f"{folder}/{name}" for name in sorted(ODD_NAMES)}
        assert [storage.read_bytes(place).decode() for place in found.values()] == list(found)
        assert storage.read_bytes(storage.member(folder, "a b.png")) == b"a b.png"


def test_a_uris_key_host_and_query_stay_as_they_are(secret_bucket):
    place = storage.join(secret_bucket, "50%", "a#1.png")
    storage.write_atomic(place, b"x")
    assert storage.list_files(storage.join(secret_bucket, "50%")) == {"a#1.png": place}
    assert storage.to_uri("gs://me%2F@box/a#%2F b?x=%20#") == "gs://me%2F@box/a%23%252F%20b?x=%20#"
    for place in ("/a b/c#%41", "s3://lab", "fsspec+memory://x/a%20b"):
        assert storage.to_uri(place) == place


def test_a_question_mark_in_a_buckets_name_is_refused(bucket):
    boto3.client("s3").put_object(Bucket="lab", Key="x/what?.png", Body=b"x")
    for act in (storage.list_files, lambda place: storage.member(place, "what?.png")):
        with pytest.raises(ValueError, match=r"s3://lab/x: the name 'what\?\.png' cannot be used"):
            act(f"{bucket}/x")


@pytest.mark.parametrize(
    ("place", "name", "parent"),
    [
        ("s3://k:s@lab/out/a.png?region=x/y", "a.png", "s3://k:s@lab/out?region=x/y"),
        ("s3://lab/out/?region=x", "out", "s3://lab?region=x"),
        ("s3://lab?region=x", "lab", "s3://lab?region=x"),
        ("/out/what?/a.png", "a.png", "/out/what?"),
        ("/out/", "out", "/"),
        ("a.png", "a.png", ""),
    ],
)
def test_a_place_has_a_name_and_a_parent(place, name, parent):
    assert (storage.name(place), storage.parent(place)) == (name, parent)


@pytest.mark.parametrize(
    ("place", "root", "name"),
    [
        ("s3://k:s@lab/in/LR/a.png?region=x", "s3://k:s@lab/in?region=x", "LR/a.png"),
        ("s3://k:s@lab/in/LR/a.png?region=x", "s3://k:s@lab/in/", "LR/a.png"),
        ("s3://k:s@lab/inner/a.png?region=x", "s3://k:s@lab/in?region=x", "a.png"),
        ("/in/LR/a.png", "/in", "LR/a.png"),
        ("/in/LR/a.png", "/", "in/LR/a.png"),
        ("/in/LR/a.png", "", "a.png"),
    ],
)
def test_a_name_below_a_root_holds_no_credentials(place, root, name):
    assert storage.relative(place, root) == name


@pytest.mark.parametrize("name", ["a:b", "a\nb", "a\\b", "x" * 241, "a\x7f"])
def test_a_name_that_no_result_can_have_is_told_at_the_start(tmp_path, name):
    for folder in ("LR", "Ref", "HR"):
        picture(tmp_path / folder, "good.png")
        picture(tmp_path / folder, f"{name}.png")
    found = find("folders", str(tmp_path))
    assert [source.id for source in found.sources] == ["good"]
    assert "rename it" in found.orphans[name]


def test_a_key_that_is_there_twice_is_told(tmp_path):
    path = tmp_path / "boxes.json"
    path.write_text('{"a": [0, 8, 0, 8], "a": [0, 4, 0, 4]}')
    with pytest.raises(ValueError, match=r"boxes\.json: .*'a' is there twice"):
        read_boxes([str(path)])
    path.write_text('{"a": [0, 8, 0, 8], "a.png": [0, 4, 0, 4]}')
    with pytest.raises(ValueError, match=r"boxes\.json: a has two boxes"):
        read_boxes([str(path)])


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
def test_a_folder_that_cannot_be_synced_takes_the_file(tmp_path, monkeypatch, number):
    real = os.fsync

    def fsync(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    storage.write_atomic(str(tmp_path / "file"), b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_read_takes_the_file(tmp_path, monkeypatch):
    """Its owner may write to it all the same, mode 0300."""
    real = os.open

    def refuse(path, *args, **kwargs):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    storage.write_atomic(str(tmp_path / "file"), b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_disk_that_fails_is_told_all_the_same(tmp_path, monkeypatch):
    def fsync(handle):
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="I/O error"):
        storage.write_atomic(str(tmp_path / "file"), b"content")


def test_what_a_killed_process_left_is_swept_and_a_living_ones_is_not(tmp_path):
    code = "from sddusr.local_files import temporary_name; print(temporary_name())"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    (tmp_path / done.stdout.strip()).write_text("half")
    ours = local_files.temporary_name()
    foreign = ours.replace(local_files._machine_hash(), "0" * 8)
    old = local_files.temporary_name().replace(local_files._machine_hash(), "1" * 8)
    for name in (ours, foreign, old, ".mine.tmp"):
        (tmp_path / name).write_text("half")
    os.utime(tmp_path / old, (1, 1))
    local_files.remove_orphaned_temporaries(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {ours, foreign, ".mine.tmp"}


def test_what_another_container_of_the_same_host_name_writes_is_not_swept(tmp_path, monkeypatch):
    """Its process ids are of another namespace."""
    names = []
    for inode in (os.stat("/proc/self/ns/pid").st_ino, 1):
        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", lambda _, inode=inode: SimpleNamespace(st_ino=inode))
            patch.setattr(os, "getpid", lambda: 2**22 + 1)  # that of no process
            local_files._machine_hash.cache_clear()
            names.append(local_files.temporary_name())
    local_files._machine_hash.cache_clear()
    for name in names:
        (tmp_path / name).write_text("half")
    local_files.remove_orphaned_temporaries(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == names[1:]
    assert json.loads(folder_lock._content("token", 0))["machine"] == local_files.machine()


@pytest.mark.parametrize(
    "sweep", [local_files.remove_temporaries, local_files.remove_orphaned_temporaries]
)
def test_a_file_that_its_writer_renames_during_a_sweep_ends_nothing(tmp_path, monkeypatch, sweep):
    """Between the listing and the removal."""
    ours = local_files.temporary_name()
    for start in ("0", "1", "2"):
        name = f".{start * 16}{ours[17:]}".replace(local_files._machine_hash(), "0" * 8)
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (1, 1))
    listed = local_files._files

    def rename_one(folder):
        entries = sorted(listed(folder), key=lambda entry: entry.name)
        os.rename(entries[1].path, tmp_path / "done")
        return entries

    monkeypatch.setattr(local_files, "_files", rename_one)
    sweep(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["done"]


def test_a_shards_problem_names_the_path_it_happened_to():
    gone = FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/out/x")
    assert _in_one_line(gone) == "/data/out/x: No such file or directory"
    full = OSError(errno.ENOSPC, "/out/x: no space to write it")
    assert _in_one_line(full) == "/out/x: no space to write it"
    assert _in_one_line(ValueError("a.png: truncated")) == "a.png: truncated"
