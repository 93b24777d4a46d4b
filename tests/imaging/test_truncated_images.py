"""A picture that was cut, wiped or has too little data is refused, in every format."""

import io
import random

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from sddusr.imaging.encoding import encode
from sddusr.imaging.images import read_picture, write_picture
from sddusr.imaging.strict_jpeg import check_jpeg
from tests.conftest import textured

PICTURE = textured(160, 240, 3)
END = b"\xff\xd9"
JPEGS = [
    {"quality": 95},
    {"quality": 80, "optimize": True},
    {"quality": 90, "progressive": True},
    {"quality": 75, "restart_marker_rows": 4},
]


def jpeg(image=PICTURE, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", **options)
    return file.getvalue()


def refuse(tmp_path, data):
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="truncated or damaged picture"):
        read_picture(str(path))


def read(tmp_path, data):
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    return read_picture(str(path)).pixels


@pytest.mark.parametrize("options", JPEGS)
def test_a_jpeg_that_was_cut_and_ended_is_refused(tmp_path, options):
    data, rng = jpeg(**options), random.Random(0)
    for _ in range(100):
        refuse(tmp_path, data[: rng.randrange(len(data) // 3, len(data) - 20)] + END)


@pytest.mark.parametrize("options", JPEGS[:1])
def test_a_jpeg_with_zeros_inside_is_refused(tmp_path, options):
    data, rng = jpeg(**options), random.Random(0)
    for _ in range(100):
        at = rng.randrange(len(data) // 3, len(data) - 300)
        refuse(tmp_path, data[:at] + bytes(200) + data[at + 200 :])


def test_a_jpeg_whose_header_is_far_larger_than_its_data_is_refused(tmp_path):
    data = jpeg(quality=95)
    at = data.index(b"\xff\xc0") + 5
    for height, width in ((9000, 9000), (161 + 8, 240), (160, 4000)):
        size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        refuse(tmp_path, data[:at] + size + data[at + 4 :])


@pytest.mark.parametrize("extension", [".png", ".jpg", ".tif", ".webp", ".bmp", ".heic"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_cut_file_of_any_format_is_refused(tmp_path, extension, dtype):
    if dtype == np.uint16 and extension not in (".png", ".tif"):
        pytest.skip("holds 8 bits")
    if extension == ".heic":
        pytest.importorskip("pillow_heif")
    path = tmp_path / f"whole{extension}"
    if extension == ".bmp":
        Image.fromarray(PICTURE).save(path)
    else:
        write_picture(str(path), PICTURE.astype(dtype))
    data, rng = path.read_bytes(), random.Random(0)
    for cut in [1, 20, 100, *(rng.randrange(100, len(data)) for _ in range(20))]:
        path.write_bytes(data[:-cut])
        with pytest.raises(ValueError, match=r"truncated or damaged|no HEIC picture|no picture"):
            read_picture(str(path))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "packbits", "jpeg", "tiff_deflate"])
def test_a_cut_tiff_of_other_programs_is_refused(tmp_path, compression):
    file, rng = io.BytesIO(), random.Random(0)
    Image.fromarray(PICTURE).save(file, "TIFF", compression=compression)
    data, path = file.getvalue(), tmp_path / "cut.tif"
    for cut in [1, 300, *(rng.randrange(1, len(data)) for _ in range(40))]:
        path.write_bytes(data[:-cut])
        with pytest.raises(ValueError, match=r"truncated or damaged|no picture|several"):
            read_picture(str(path))


@pytest.mark.parametrize("flat", [0, 16, 128, 255])
@pytest.mark.parametrize("options", [*JPEGS, {"quality": 30}, {"quality": 100, "subsampling": 0}])
def test_flat_and_dark_jpegs_are_whole(tmp_path, flat, options):
    image = np.full((400, 640, 3), flat, np.uint8)
    read(tmp_path, jpeg(image, **options))
    image[100:140, 200:240] = textured(40, 40, 0)
    read(tmp_path, jpeg(image, **options))


@pytest.mark.parametrize("padding", [b"\0", b"\xff", bytes(500), b"\0\xff\xff" * 9])
def test_a_jpeg_that_is_padded_before_its_end_is_whole(tmp_path, padding):
    data = jpeg(quality=90)
    padded = data[:-2] + padding + END
    np.testing.assert_array_equal(read(tmp_path, padded), read(tmp_path, data))
    refuse(tmp_path, data[:-2] + b"noise" + END)


@pytest.mark.parametrize("options", JPEGS)
def test_a_second_picture_after_a_padded_one_does_not_count(tmp_path, options):
    """A preview or a gain map is a JPEG after the end of the first."""
    data, preview = jpeg(**options), jpeg(PICTURE[:80, :96], quality=50)
    follows, noise = preview[:-2] + b"noise" + END, b"noise" * 9
    padded = data[:-2] + bytes(16) + END
    np.testing.assert_array_equal(read(tmp_path, padded + follows), read(tmp_path, data))
    refuse(tmp_path, data[:-2] + noise + END + preview[:-2] + bytes(16) + END)
    refuse(tmp_path, data[: len(data) * 2 // 3] + END + follows)


@pytest.mark.parametrize("follows", [b"video" * 99, jpeg(quality=50), END, bytes(4000)])
def test_what_follows_the_end_does_not_count(tmp_path, follows):
    data = jpeg(quality=90)
    np.testing.assert_array_equal(read(tmp_path, data + follows), read(tmp_path, data))


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
def test_every_sampling_of_colours_is_taken(tmp_path, subsampling):
    data = simplejpeg.encode_jpeg(PICTURE, quality=90, colorsubsampling=subsampling)
    assert read(tmp_path, data).shape == PICTURE.shape


def test_grey_and_rgb_jpegs_are_taken(tmp_path):
    assert read(tmp_path, jpeg(PICTURE[..., 0], quality=90)).shape == PICTURE.shape
    assert read(tmp_path, jpeg(quality=90, keep_rgb=True)).shape == PICTURE.shape


def test_our_own_jpegs_are_whole():
    check_jpeg(encode("sr.jpg", PICTURE, b"", b"", 95))
