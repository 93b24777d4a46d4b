import contextlib
import errno
import os
import signal
import threading
import time
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sddusr import local_files, storage
from sddusr.imaging.images import encode_png, read_picture, read_rgb, write_picture, write_png
from tests.conftest import textured


def encoded(extension: str, picture: np.ndarray) -> bytes:
    return cv2.imencode(extension, picture)[1].tobytes()


def test_png_comes_back_unchanged(tmp_path):
    picture = textured(21, 34, 0)
    write_png(f"{tmp_path}/new/folder/p.png", picture)
    np.testing.assert_array_equal(read_rgb(f"{tmp_path}/new/folder/p.png").pixels, picture)


@pytest.mark.parametrize("extension", [".png", ".bmp", ".tif", ".jpg", ".webp"])
def test_channels_are_red_green_blue(tmp_path, extension):
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[..., 2] = 250  # OpenCV writes blue first, so this is red
    path = tmp_path / f"red{extension}"
    path.write_bytes(encoded(extension, picture))
    red, green, blue = read_rgb(str(path)).pixels.mean((0, 1))
    assert red > 230 > 30 > max(green, blue)


def test_grey_becomes_three_equal_channels(tmp_path):
    path = tmp_path / "grey.png"
    path.write_bytes(encoded(".png", textured(10, 12, 0)[..., 0]))
    pixels = read_rgb(str(path)).pixels
    assert pixels.shape == (10, 12, 3)
    assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif"])
def test_a_turned_photo_is_read_upright(tmp_path, extension):
    image = Image.fromarray(textured(10, 16, 0))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / f"turned.{extension}", exif=exif)
    assert read_rgb(f"{tmp_path}/turned.{extension}").pixels.shape == (16, 10, 3)


def bomb(height: int, width: int) -> bytes:
    """A PNG that claims to be large; its pixels are never there."""
    data = encode_png(np.zeros((1, 1, 3), np.uint8))
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + data[24:29]
    return data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]


def flipped(data: bytes, byte: int) -> bytes:
    return data[:byte] + bytes([data[byte] ^ 1]) + data[byte + 1 :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bomb(10_001, 10_000), r"100\.0 megapixels, the limit is 100\.0; raise --max-megapixels"),
        (bomb(60_000, 60_000), "60000x60000 is more than 1074 megapixels"),
        (bomb(50, 50), "truncated or damaged|decoded to"),
        (b"", "no picture"),
        (b"\x89PNG\r\n\x1a\n", "no picture"),
        (flipped(encode_png(textured(40, 40, 0)), 1000), "truncated or damaged"),
        (encoded(".png", textured(40, 40, 0))[:-60], "truncated or damaged"),
        (encode_png(textured(40, 40, 0))[:-12], "truncated or damaged"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, data, message):
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"x\.png: .*({message})"):
        read_rgb(str(path))


def test_the_limit_is_the_users(tmp_path):
    write_png(f"{tmp_path}/p.png", textured(20, 20, 0))
    assert read_rgb(f"{tmp_path}/p.png", max_pixels=400).pixels.shape == (20, 20, 3)
    with pytest.raises(ValueError, match="megapixels"):
        read_rgb(f"{tmp_path}/p.png", max_pixels=399)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_rgb(f"{tmp_path}/q.png")


@pytest.mark.parametrize("extension", [".png", ".jpg", ".bmp", ".webp", ".tif"])
def test_the_limit_goes_beyond_pillows_own(tmp_path, monkeypatch, extension):
    path = tmp_path / f"p{extension}"
    path.write_bytes(encoded(extension, textured(20, 20, 0)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    if extension in (".webp", ".tif"):
        with pytest.raises(ValueError, match="as TIFF or WebP; convert it to PNG or JPEG"):
            read_rgb(str(path))
    else:
        assert read_rgb(str(path)).pixels.shape == (20, 20, 3)


def test_sixteen_bits_are_rounded_to_eight_and_alpha_is_dropped_or_kept(tmp_path):
    place = f"{tmp_path}/p.png"
    pixels = np.arange(65_536 * 3, dtype=np.uint32).reshape(256, 256, 3).astype(np.uint16)
    write_picture(place, pixels, alpha=pixels[..., 0].copy())
    picture = read_rgb(place)
    np.testing.assert_array_equal(picture.pixels, np.round(pixels / 257).astype(np.uint8))
    assert picture.alpha is None
    assert picture.sha256 == read_picture(place).sha256
    kept = read_rgb(place, keep_alpha=True).alpha
    assert kept is not None
    np.testing.assert_array_equal(kept, picture.pixels[..., 0])


KINDS = [(extension, np.uint8) for extension in (".png", ".jpg", ".bmp", ".webp", ".tif")]


@settings(max_examples=120, deadline=None)
@given(st.sampled_from([*KINDS, (".png", np.uint16), (".tif", np.uint16)]), st.data())
def test_a_fuzzed_picture_is_read_whole_or_refused(tmp_path_factory, kind, data):
    extension, dtype = kind
    content = bytearray(encoded(extension, textured(24, 20, 0).astype(dtype)))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path_factory.mktemp("fuzz") / f"p{extension}"
    path.write_bytes(content)
    with contextlib.suppress(ValueError):
        pixels = read_picture(str(path), max_pixels=10**6).pixels
        assert pixels.dtype in (np.uint8, np.uint16)
        assert pixels.size <= 3 * 10**6


def fail_with(number: int):
    def fsync(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    return fsync


def test_a_full_disk_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    place = f"{tmp_path}/file"
    storage.write_atomic(place, b"old")
    monkeypatch.setattr(os, "fsync", fail_with(errno.ENOSPC))
    with pytest.raises(
        OSError, match=rf"{place}: no space .* needed 12345 bytes .*are free"
    ) as info:
        storage.write_atomic(place, b"x" * 12345)
    assert info.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == ["file"]
    assert storage.read_bytes(place) == b"old"


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def write(file):
        file.write(b"half")
        raise KeyError("bug")

    with pytest.raises(KeyError):
        storage.write_atomic(f"{tmp_path}/file", write)
    assert not os.listdir(tmp_path)


def test_leftovers_of_a_killed_writer_are_swept(tmp_path):
    (tmp_path / ".shard.parquet.0123.tmp").write_bytes(b"half")
    (tmp_path / ".keep").write_bytes(b"x")
    local_files.remove_temporaries(str(tmp_path))
    assert os.listdir(tmp_path) == [".keep"]


def test_an_object_store_works_like_a_folder():
    root = "fsspec+memory://bucket/places"
    storage.write_atomic(storage.join(root, "a", "b.bin"), lambda file: file.write(b"123") and None)
    assert storage.read_bytes(f"{root}/a/b.bin") == b"123"
    assert storage.list_files(f"{root}/a") == {"b.bin": f"{root}/a/b.bin"}
    assert storage.member(root, "a/b.bin") == f"{root}/a/b.bin"
    storage.remove(f"{root}/a/b.bin")
    assert not storage.exists(f"{root}/a/b.bin")


class Interrupted(Exception):
    """What a signal raises."""


@pytest.mark.parametrize("delay_s", [0, 0.01, 0.02])
def test_an_upload_that_a_signal_interrupts_is_whole_or_absent(bucket, delay_s):
    place, size = f"{bucket}/x", 24 * 2**20
    kill = (threading.get_ident(), signal.SIGUSR1)

    def write(file):
        file.write(bytes(size))
        threading.Timer(delay_s, signal.pthread_kill, kill).start()

    def upload():
        storage.write_atomic(place, write)
        time.sleep(10)  # the signal may come that late

    def interrupt(*_):
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(Interrupted):
            upload()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not storage.exists(place) or storage.info(place).size == size


def test_an_upload_may_be_empty(bucket):
    storage.write_atomic(f"{bucket}/x", b"")
    assert storage.info(f"{bucket}/x").size == 0


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "a//x", "x\0", "..", "", "c:/x", "a\\..\\x"]
)
def test_names_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="refused"):
        storage.member(str(tmp_path), name)


def test_unknown_places_are_refused():
    with pytest.raises(ValueError, match="not a place that can be read"):
        storage.read_bytes("gopher://x/y")
