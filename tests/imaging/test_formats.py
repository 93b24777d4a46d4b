import io
import itertools
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps, TiffImagePlugin

from sddusr.imaging import common_formats, containers
from sddusr.imaging.images import (
    Metadata,
    check_output,
    focal_length_35mm,
    read_picture,
    read_rgb,
    write_picture,
)
from tests.conftest import textured

ICC = bytes(16) + b"RGB " + bytes(range(200))
GPS = {1: "N", 2: (52.0, 31.0, 12.0)}


def exif_of(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", orientation
    exif[0x8769] = {0xA405: 26, 0xA002: 4000, 0xA003: 3000, 0x927C: b"note" * 9}
    exif[0x8825] = GPS
    return exif.tobytes().removeprefix(b"Exif\0\0")


METADATA = Metadata(exif_of(), ICC)


def told(exif: bytes) -> tuple[object, ...]:
    """Maker, orientation, focal length, width, height, note and latitude."""
    block = Image.Exif()
    block.load(exif)
    inner, gps = block.get_ifd(0x8769), block.get_ifd(0x8825)
    inner_told = (inner[tag] for tag in (0xA405, 0xA002, 0xA003, 0x927C))
    return (block[0x010F], block[0x0112], *inner_told, gps[2])


def noise(height: int, width: int, channels: int, dtype: type = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(height * 100 + width)
    return rng.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)


def pillow(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read(tmp_path, data: bytes):
    path = tmp_path / "picture"
    path.write_bytes(data)
    return read_picture(str(path))


def tiff(
    samples: np.ndarray,
    *,
    tags: dict[int, object] | None = None,
    order: str = "<",
    planar: bool = False,
) -> bytes:
    """An uncompressed TIFF with its tags first; `tags` are added or replaced."""
    height, width, channels = samples.shape
    mark = b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08"
    fields: dict[int, object] = {256: width, 257: height, 258: (8 * samples.itemsize,) * channels}
    fields |= {259: 1, 262: 2 if channels > 2 else 1, 277: channels, 278: height}
    planes = [samples[..., i] for i in range(channels)] if planar else [samples]
    data = [plane.astype(samples.dtype.newbyteorder(order)).tobytes() for plane in planes]
    fields[279] = tuple(len(plane) for plane in data)
    fields[273] = tuple(sum(fields[279][:i]) for i in range(len(data)))
    fields[284] = 2 if planar else 1
    directory = TiffImagePlugin.ImageFileDirectory_v2(mark)
    for tag, value in (fields | (tags or {})).items():
        directory[tag] = value
    return mark + directory.tobytes(8) + b"".join(data)


def png(rows: np.ndarray, depth: int, colour: int, *chunks: bytes) -> bytes:
    """A PNG of one kind of colour (0 grey, 2 RGB, 4 grey and alpha), of 8 or 16 bits."""
    height, width = rows.shape[:2]
    lines = b"".join(b"\0" + row.astype(f">u{depth // 8}").tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(lines))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


@given(
    st.sampled_from([".png", ".tif", ".TIFF"]),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([np.uint8, np.uint16]),
    st.booleans(),
)
def test_png_and_tiff_come_back_bit_by_bit(
    tmp_path_factory, extension, height, width, dtype, has_alpha
):
    place = f"{tmp_path_factory.mktemp('trip')}/p{extension}"
    channels = noise(height, width, 4, dtype)
    channels[0, 0, 3] = 0
    alpha = channels[..., 3].copy() if has_alpha else None
    write_picture(place, channels[..., :3].copy(), alpha=alpha, metadata=METADATA)
    picture = read_picture(place)
    np.testing.assert_array_equal(picture.pixels, channels[..., :3])
    assert picture.pixels.dtype == dtype
    if has_alpha:
        np.testing.assert_array_equal(picture.alpha, alpha)
    else:
        assert picture.alpha is None


def test_a_tiff_of_several_strips_is_what_other_programs_read(tmp_path):
    pixels = noise(400, 501, 3, np.uint16)
    write_picture(f"{tmp_path}/p.tif", pixels)
    np.testing.assert_array_equal(cv2.imread(f"{tmp_path}/p.tif", -1)[..., ::-1], pixels)
    with Image.open(f"{tmp_path}/p.tif") as image:
        assert len(image.tag_v2[273]) > 1
    write_picture(
        f"{tmp_path}/p8.tif", (pixels >> 8).astype(np.uint8), alpha=noise(400, 501, 1)[..., 0]
    )
    with Image.open(f"{tmp_path}/p8.tif") as image:
        assert image.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(image)[..., :3], pixels >> 8)


@pytest.mark.parametrize("extension", [".jpg", ".jpeg", ".webp"])
def test_the_quality_is_the_users(tmp_path, extension):
    pixels = textured(80, 91, 0)
    sizes, errors = [], []
    for quality in (20, 60, 95):
        write_picture(f"{tmp_path}/p{extension}", pixels, quality=quality)
        sizes.append((tmp_path / f"p{extension}").stat().st_size)
        back = read_rgb(f"{tmp_path}/p{extension}").pixels
        errors.append(float(np.abs(back.astype(int) - pixels).mean()))
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 6


@pytest.mark.parametrize(("quality", "sampling"), [(89, 2), (90, 0)])
def test_a_good_jpeg_keeps_its_colours_at_full_resolution(tmp_path, quality, sampling):
    write_picture(f"{tmp_path}/p.jpg", textured(16, 16, 0), quality=quality)
    with Image.open(f"{tmp_path}/p.jpg") as image:
        assert image.layer[0][1:3] == ((1, 1) if sampling == 0 else (2, 2))


def test_webp_keeps_alpha_and_the_colours_below_it(tmp_path):
    pixels = np.full((64, 64, 3), 200, np.uint8)
    pixels[32:, :32] = 40
    alpha = np.zeros((64, 64), np.uint8)
    alpha[:16] = 77
    write_picture(f"{tmp_path}/p.webp", pixels, alpha=alpha)
    picture = read_picture(f"{tmp_path}/p.webp")
    np.testing.assert_array_equal(picture.alpha, alpha)
    assert np.abs(picture.pixels.astype(int) - pixels).mean() < 4


@pytest.mark.parametrize("extension", [".png", ".jpg", ".tif", ".webp"])
def test_what_a_file_says_of_the_photo_is_carried_over(tmp_path, extension):
    place = f"{tmp_path}/p{extension}"
    write_picture(place, textured(30, 41, 0), metadata=METADATA)
    picture = read_picture(place)
    assert picture.metadata.icc == ICC
    assert told(picture.metadata.exif) == ("Maker", 1, 26, 41, 30, b"note" * 9, GPS[2])
    assert focal_length_35mm(picture.metadata) == 26
    write_picture(place, textured(60, 82, 0), metadata=picture.metadata)
    again = read_picture(place)
    assert told(again.metadata.exif) == ("Maker", 1, 26, 82, 60, b"note" * 9, GPS[2])
    write_picture(place, picture.pixels)
    assert read_picture(place).metadata == Metadata()


def test_a_jpeg_leaves_out_exif_that_it_cannot_hold(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "x" * 70_000
    long = Metadata(exif.tobytes().removeprefix(b"Exif\0\0"))
    for extension, is_held in ((".jpg", False), (".png", True)):
        write_picture(f"{tmp_path}/p{extension}", textured(9, 9, 0), metadata=long)
        assert bool(read_picture(f"{tmp_path}/p{extension}").metadata.exif) == is_held


def test_a_damaged_block_does_not_keep_a_picture_from_being_written(tmp_path):
    pixels = textured(9, 9, 0)
    for extension, length in itertools.product(
        (".png", ".jpg", ".tif", ".webp"), range(0, 200, 20)
    ):
        place = f"{tmp_path}/p{extension}"
        write_picture(place, pixels, metadata=Metadata(METADATA.exif[:length]))
        picture = read_picture(place)
        assert picture.pixels.shape == pixels.shape
        assert length > 20 or picture.metadata.exif == b""


def stored(extension: str, channels: np.ndarray, orientation: int) -> bytes:
    """A file whose rows and columns are to be turned when it is shown."""
    exif = exif_of(orientation)
    if extension == "tif":
        extra = {338: 2} if channels.shape[2] == 4 else {}
        return tiff(channels, tags={274: orientation, **extra})
    if channels.dtype == np.uint16:
        return png(channels, 16, 6, chunk(b"eXIf", exif))
    lossless = {"lossless": True, "exact": True} if extension == "webp" else {}
    kind = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[extension]
    return pillow(Image.fromarray(channels), kind, exif=b"Exif\0\0" + exif, **lossless)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("extension", "dtype"),
    [
        *[(extension, np.uint8) for extension in ("png", "webp", "tif", "jpg")],
        *[(extension, np.uint16) for extension in ("png", "tif")],
    ],
)
def test_every_orientation_is_turned_once(tmp_path, extension, dtype, orientation):
    channels = noise(10, 17, 3 if extension == "jpg" else 4, dtype)
    plain = read(tmp_path, stored(extension, channels, 1)).pixels
    shown = []
    for plane in [*np.moveaxis(plain, 2, 0), *np.moveaxis(channels[..., 3:], 2, 0)]:
        image = Image.fromarray(plane)
        image.getexif()[0x0112] = orientation
        shown.append(np.asarray(ImageOps.exif_transpose(image)))
    picture = read(tmp_path, stored(extension, channels, orientation))
    np.testing.assert_array_equal(picture.pixels, np.dstack(shown[:3]))
    if extension != "jpg":
        np.testing.assert_array_equal(picture.alpha, shown[3])
    place = f"{tmp_path}/again.{extension}"
    write_picture(place, picture.pixels, metadata=picture.metadata)
    assert read_picture(place).pixels.shape == picture.pixels.shape


def test_exif_behind_a_pngs_pixels_counts_too(tmp_path):
    data = png(noise(6, 9, 3), 8, 2)
    end = len(data) - 12
    picture = read(tmp_path, data[:end] + chunk(b"eXIf", exif_of(6)) + data[end:])
    assert picture.pixels.shape == (9, 6, 3)


def test_what_follows_a_pngs_end_is_no_part_of_it(tmp_path):
    rows = noise(6, 9, 3)
    np.testing.assert_array_equal(read(tmp_path, png(rows, 8, 2) + b"a film" * 99).pixels, rows)


GREY, RGB = noise(7, 5, 1), noise(7, 5, 3)
PALETTED = Image.fromarray(RGB).quantize(16)
DEEP = noise(7, 5, 4, np.uint16)


@pytest.mark.parametrize(
    ("data", "pixels", "alpha"),
    [
        (pillow(Image.fromarray(GREY[..., 0]), "PNG"), GREY.repeat(3, 2), None),
        (pillow(Image.fromarray(GREY[..., 0]), "TIFF"), GREY.repeat(3, 2), None),
        (pillow(Image.fromarray(GREY[..., 0] > 99), "PNG"), (GREY > 99).repeat(3, 2) * 255, None),
        (pillow(Image.fromarray(GREY[..., 0] > 99), "TIFF"), (GREY > 99).repeat(3, 2) * 255, None),
        (pillow(PALETTED, "PNG"), np.asarray(PALETTED.convert("RGB")), None),
        (pillow(PALETTED, "BMP"), np.asarray(PALETTED.convert("RGB")), None),
        (
            pillow(PALETTED, "PNG", transparency=3),
            np.asarray(PALETTED.convert("RGB")),
            np.where(np.asarray(PALETTED) == 3, 0, 255),
        ),
        (png(RGB[..., :2], 8, 4), RGB[..., :1].repeat(3, 2), RGB[..., 1]),
        (
            pillow(Image.fromarray(RGB[..., :2], "LA"), "TIFF"),
            RGB[..., :1].repeat(3, 2),
            RGB[..., 1],
        ),
        (png(DEEP[..., :1], 16, 0), DEEP[..., :1].repeat(3, 2), None),
        (png(DEEP[..., :2], 16, 4), DEEP[..., :1].repeat(3, 2), DEEP[..., 1]),
        (tiff(DEEP[..., :1]), DEEP[..., :1].repeat(3, 2), None),
        (tiff(DEEP[..., :3], order=">"), DEEP[..., :3], None),
        (tiff(DEEP, tags={338: 2}), DEEP[..., :3], DEEP[..., 3]),
        # A fourth channel that is not said to be alpha is not part of the picture.
        (tiff(DEEP, tags={338: 0}), DEEP[..., :3], None),
        (tiff(RGB, planar=True), RGB, None),
    ],
)
def test_every_usual_kind_of_colour_becomes_rgb_in_its_depth(tmp_path, data, pixels, alpha):
    picture = read(tmp_path, data)
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.pixels.dtype == (np.uint16 if pixels.dtype == np.uint16 else np.uint8)
    if alpha is None:
        assert picture.alpha is None
    else:
        np.testing.assert_array_equal(picture.alpha, alpha)


def test_a_colour_key_makes_alpha(tmp_path):
    for depth, rows in ((8, RGB), (16, DEEP[..., :3])):
        key = chunk(b"tRNS", rows[2, 3].astype(">u2").tobytes())
        alpha = read(tmp_path, png(rows, depth, 2, key)).alpha
        np.testing.assert_array_equal(alpha == 0, (rows == rows[2, 3]).all(2))


def test_alpha_that_hides_nothing_is_none(tmp_path):
    data = pillow(Image.fromarray(RGB).convert("RGBA"), "PNG")
    assert read(tmp_path, data).alpha is None


def test_a_profile_of_greys_is_not_put_on_rgb(tmp_path):
    for space, is_kept in ((b"GRAY", False), (b"RGB ", True)):
        icc = ICC[:16] + space + ICC[20:]
        data = pillow(Image.fromarray(GREY[..., 0]), "PNG", icc_profile=icc)
        assert bool(read(tmp_path, data).metadata.icc) == is_kept


FRAMES = [Image.fromarray(noise(8, 9, 3)), Image.fromarray(255 - noise(8, 9, 3))]
MANY = {"save_all": True, "append_images": FRAMES[1:]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pillow(Image.fromarray(noise(8, 9, 4), "CMYK"), "JPEG"), "colours are CMYK, need RGB"),
        (pillow(Image.fromarray(np.float32(RGB[..., 0])), "TIFF"), "colours are F, need RGB"),
        (pillow(Image.fromarray(np.int32(RGB[..., 0])), "TIFF"), "colours are I, need RGB"),
        (pillow(FRAMES[0].convert("LAB"), "TIFF"), "colours are LAB, need RGB"),
        (pillow(FRAMES[0], "WEBP", **MANY), "several frames or pages, need one picture"),
        (pillow(FRAMES[0], "PNG", **MANY), "several frames or pages, need one picture"),
        (pillow(FRAMES[0], "TIFF", **MANY), "several frames or pages, need one picture"),
        (tiff(RGB, tags={254: 1}), "several frames or pages, need one picture"),
        (pillow(FRAMES[0], "GIF"), "no picture that can be read .*need one of .png"),
        (tiff(DEEP[..., :3], tags={339: (2, 2, 2)}), "no picture that can be read"),
        (tiff(DEEP, tags={338: 1}), "unusual kind of 16-bit picture"),
        (tiff(DEEP[..., :3], planar=True), "unusual kind of 16-bit picture"),
        (tiff(DEEP[..., :1], tags={262: 0}), "unusual kind of 16-bit picture"),
        (png(DEEP[..., :1], 16, 0, chunk(b"tRNS", b"\0\1")), "unusual kind of 16-bit picture"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(tmp_path, data, message):
    with pytest.raises(ValueError, match=rf"/picture: .*{message}"):
        read(tmp_path, data)


def test_a_jpeg_of_too_many_scans_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    data = pillow(Image.fromarray(textured(40, 40, 0)), "JPEG", progressive=True)
    num_scans = containers.num_jpeg_scans(data + b"\xff\xda" * 200)
    assert 5 < num_scans < 20
    assert containers.num_jpeg_scans(pillow(FRAMES[0], "JPEG")) == 1
    assert read(tmp_path, data).pixels.shape == (40, 40, 3)
    monkeypatch.setattr(common_formats, "MAX_SCANS", num_scans - 1)
    with pytest.raises(ValueError, match=r"more than \d+ scans"):
        read(tmp_path, data)


def test_a_phones_jpeg_is_the_first_of_its_pictures_whatever_follows(tmp_path):
    alone = read(tmp_path, pillow(FRAMES[0], "JPEG")).pixels
    several = pillow(FRAMES[0], "MPO", **MANY)
    for data in (several, several + b"a film" * 99):
        np.testing.assert_array_equal(read(tmp_path, data).pixels, alone)


@pytest.mark.parametrize(
    ("name", "height", "width", "dtype", "has_alpha", "message"),
    [
        ("p.jpg", 9, 9, np.uint8, True, "JPEG holds no alpha; write .png"),
        ("p.jpeg", 9, 9, np.uint16, False, "uint16, JPEG holds 8 bits; write .png or .tif"),
        ("p.webp", 9, 9, np.uint16, False, "uint16, WebP holds 8 bits"),
        ("p.png", 9, 9, np.float32, False, "float32, PNG holds 8 or 16 bits"),
        ("p.jpg", 65_501, 9, np.uint8, False, "JPEG holds at most 65500 pixels a side"),
        ("p.webp", 9, 16_384, np.uint8, False, "WebP holds at most 16383 pixels a side"),
        ("p.tif", 30_000, 30_000, np.uint16, False, "5.0 GiB, TIFF holds 4; write .png"),
        ("p.gif", 9, 9, np.uint8, False, "unknown kind of picture '.gif', need one of .png"),
        ("p", 9, 9, np.uint8, False, "unknown kind of picture ''"),
    ],
)
def test_what_a_format_cannot_hold_is_said_before_the_work(
    tmp_path, name, height, width, dtype, has_alpha, message
):
    with pytest.raises(ValueError, match=rf"{name}: .*{message}"):
        check_output(f"{tmp_path}/{name}", height, width, dtype, has_alpha)


@pytest.mark.parametrize("extension", [".jpg", ".webp", ".png", ".tif"])
def test_what_the_check_lets_through_is_written(tmp_path, extension):
    side = {".jpg": 65_500, ".webp": 16_383}.get(extension, 70_000)
    check_output(f"p{extension}", 1, side, np.uint8, False)
    check_output(f"s3://bucket/p{extension.upper()}?region=x", side, 1, np.uint8, False)
    for shape in ((1, side), (side, 1)):
        write_picture(f"{tmp_path}/p{extension}", np.zeros((*shape, 3), np.uint8))
        assert read_rgb(f"{tmp_path}/p{extension}").pixels.shape == (*shape, 3)


def test_refused_pictures_leave_no_file(tmp_path):
    pixels = textured(8, 8, 0)
    with pytest.raises(ValueError, match="JPEG holds no alpha"):
        write_picture(f"{tmp_path}/p.jpg", pixels, alpha=pixels[..., 0].copy())
    with pytest.raises(ValueError, match="the quality is 0, need 1 to 100"):
        write_picture(f"{tmp_path}/p.jpg", pixels, quality=0)
    with pytest.raises(ValueError, match=r"alpha is uint16 .*need uint8 8x8"):
        write_picture(f"{tmp_path}/p.png", pixels, alpha=np.zeros((8, 8), np.uint16))
    assert not list(tmp_path.iterdir())


def test_heic_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    message = r"p.*: HEIC needs pillow-heif, .*pip install sddusr\[heic\]"
    with pytest.raises(ValueError, match=message):
        read(tmp_path, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(ValueError, match=message):
        check_output(f"{tmp_path}/p.heic", 9, 9, np.uint8, False)


def test_heic_comes_back_nearly_and_says_the_same_of_the_photo(tmp_path):
    pytest.importorskip("pillow_heif", reason="an extra")
    place = f"{tmp_path}/p.heic"
    pixels, alpha = textured(51, 71, 0), textured(51, 71, 1)[..., 0].copy()
    write_picture(place, pixels, alpha=alpha, metadata=METADATA)
    picture = read_picture(place)
    assert np.abs(picture.pixels.astype(int) - pixels).mean() < 2
    assert np.abs(picture.alpha.astype(int) - alpha).mean() < 2
    assert picture.metadata.icc == ICC
    assert told(picture.metadata.exif) == ("Maker", 1, 26, 71, 51, b"note" * 9, GPS[2])
    with pytest.raises(ValueError, match="HEIC holds 8 bits"):
        check_output(place, 9, 9, np.uint16, False)
    data = (tmp_path / "p.heic").read_bytes()
    for length in itertools.chain(range(20, 400, 20), range(400, len(data), 300)):
        with pytest.raises(ValueError, match=r"/picture: "):
            read(tmp_path, data[:length])
