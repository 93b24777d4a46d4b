"""Colours, density, XMP and comments are carried over, converted, refused or told."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from sddusr.imaging.camera_raw import is_camera_raw
from sddusr.imaging.color_profile import SRGB, colors_of_cicp, colors_of_gamma, make_icc
from sddusr.imaging.descriptive import Descriptive, clean_xmp
from sddusr.imaging.encoding import encode_png, with_chunks
from sddusr.imaging.images import (
    NO_METADATA,
    Metadata,
    check_colors,
    describe_lost,
    read_picture,
    write_picture,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" dc:rights="mine" tiff:Orientation="6" '
    b'hdrgm:Version="1.0"/></rdf:RDF></x:xmpmeta>'
)


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(content, zlib.crc32(name)))
    return struct.pack(">I", len(content)) + name + content + checksum


def png(*chunks: bytes) -> bytes:
    data = encode_png(PIXELS)
    return data[:33] + b"".join(chunks) + data[33:]


def read(tmp_path, data, name="picture.png"):
    path = tmp_path / name
    path.write_bytes(data)
    return read_picture(str(path))


def to_srgb(icc: bytes, pixels: np.ndarray) -> np.ndarray:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    image = Image.fromarray(pixels)
    return np.array(ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB")))


def test_a_made_profile_of_srgb_changes_nothing():
    same = to_srgb(make_icc(SRGB, None), PIXELS)
    assert np.abs(same.astype(int) - PIXELS).max() <= 2


def test_a_linear_png_keeps_how_bright_it_looks(tmp_path):
    picture = read(tmp_path, png(chunk(b"gAMA", struct.pack(">I", 100_000))))
    shown = to_srgb(picture.metadata.icc, np.full((4, 4, 3), 55, np.uint8))
    assert np.abs(shown.astype(int) - 128).max() <= 3  # linear 0.2157 is sRGB's 128
    write_picture(str(tmp_path / "sr.jpg"), PIXELS, metadata=picture.metadata)
    assert read_picture(str(tmp_path / "sr.jpg")).metadata.icc == picture.metadata.icc


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [chunk(b"gAMA", struct.pack(">I", 45_455))],
        [chunk(b"sRGB", b"\0"), chunk(b"gAMA", struct.pack(">I", 100_000))],
        [chunk(b"cICP", bytes([1, 13, 0, 1])), chunk(b"gAMA", struct.pack(">I", 100_000))],
    ],
)
def test_srgb_said_in_any_way_stays_untagged(tmp_path, chunks):
    metadata = read(tmp_path, png(*chunks)).metadata
    assert (metadata.icc, metadata.cicp) == (b"", None)


def test_chromaticities_of_another_space_become_a_profile(tmp_path):
    corners = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
    picture = read(tmp_path, png(chunk(b"cHRM", corners)))
    red = to_srgb(picture.metadata.icc, np.full((4, 4, 3), [200, 60, 60], np.uint8))
    assert red[0, 0, 0] > 205  # P3's red is more than sRGB's


@pytest.mark.parametrize("values", [[0] * 8, [0.3] * 8, [1e9] * 8, [0.1, 0.2]])
def test_chromaticities_that_are_no_colours_are_left_out(values):
    assert colors_of_gamma(0.45455, values).icc == b""


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_carried_over_or_refused(tmp_path, transfer, name):
    picture = read(tmp_path, png(chunk(b"cICP", bytes([9, transfer, 0, 1]))))
    assert picture.metadata.cicp == (9, transfer)
    write_picture(str(tmp_path / "sr.png"), PIXELS, metadata=picture.metadata)
    again = read_picture(str(tmp_path / "sr.png"))
    assert again.metadata.cicp == (9, transfer)
    for extension in ("jpg", "tif", "webp"):
        with pytest.raises(ValueError, match=rf"the picture is HDR \({name}\), .*write \.png"):
            check_colors(str(tmp_path / f"sr.{extension}"), picture.metadata)
        with pytest.raises(ValueError, match="HDR"):
            write_picture(str(tmp_path / f"sr.{extension}"), PIXELS, metadata=picture.metadata)


@pytest.mark.parametrize("codes", [[9, 200, 0, 1], [77, 13, 0, 1], [1, 13, 1, 1], [1, 13, 0, 0]])
def test_colours_that_are_not_known_are_refused(tmp_path, codes):
    with pytest.raises(ValueError, match="convert it to sRGB"):
        read(tmp_path, png(chunk(b"cICP", bytes(codes))))


def test_display_p3_by_code_points_becomes_a_profile_of_its_own():
    colors = colors_of_cicp(12, 13, "x")
    assert not colors.is_hdr
    shown = to_srgb(colors.icc, np.full((4, 4, 3), [200, 60, 60], np.uint8))
    assert shown[0, 0, 0] > 205


@pytest.mark.parametrize("codes", [(9, 16), (12, 13)])
def test_heic_keeps_its_code_points(tmp_path, codes):
    pillow_heif = pytest.importorskip("pillow_heif")
    colors = colors_of_cicp(*codes, "x")
    metadata = Metadata(icc=colors.icc, cicp=colors.cicp)
    write_picture(str(tmp_path / "sr.heic"), PIXELS, metadata=metadata)
    told = pillow_heif.open_heif(str(tmp_path / "sr.heic")).info["nclx_profile"]
    assert (told["color_primaries"], told["transfer_characteristics"]) == codes
    again = read_picture(str(tmp_path / "sr.heic")).metadata
    assert (again.cicp, again.icc) == (colors.cicp, colors.icc)


ABOUT = Descriptive(dpi=(300.0, 300.0), xmp=clean_xmp(XMP), comment=b"by me")


@pytest.mark.parametrize("extension", ["jpg", "png", "tif", "webp", "avif", "heic", "jxl"])
def test_density_xmp_and_comment_are_carried_over_or_told(tmp_path, extension):
    if extension == "heic":
        pytest.importorskip("pillow_heif")
    if extension == "jxl":
        pytest.importorskip("pillow_jxl")
    if extension == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    place = str(tmp_path / f"sr.{extension}")
    write_picture(place, PIXELS, metadata=Metadata(about=ABOUT))
    again, lost = read_picture(place).metadata.about, describe_lost(place, Metadata(about=ABOUT))
    assert ("density" in lost) == (again.dpi is None)
    assert ("XMP" in lost) == (b'rights="mine"' not in again.xmp)
    assert ("comment" in lost) == (again.comment != b"by me")
    if again.dpi:
        assert again.dpi == pytest.approx((300, 300), abs=0.1)
    with Image.open(place) if extension in ("jpg", "png", "tif") else io.BytesIO() as seen:
        if extension in ("jpg", "png", "tif"):
            assert seen.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_a_phones_gain_map_is_told_and_what_describes_it_is_taken_out(tmp_path):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", xmp=XMP)
    metadata = read(tmp_path, file.getvalue(), "photo.jpg").metadata
    assert b'rights="mine"' in metadata.about.xmp
    for word in (b"hdr-gain-map", b"Orientation"):
        assert word not in metadata.about.xmp
    assert describe_lost("sr.jpg", metadata) == "gain map"
    assert describe_lost("sr.jpg", NO_METADATA) == ""


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"no XML",
        b"<!DOCTYPE x [<!ENTITY a 'aaaa'>]><x/>",
        XMP.decode().replace("<x:", "<!DOCTYPE x [<!ENTITY a 'a'>]><x:", 1).encode("utf-16"),
        b"<x/>",
        b"\0\xff",
        b"<" * 2**21,
    ],
)
def test_xmp_that_is_none_is_left_out(packet):
    assert clean_xmp(packet) == b""


def tiff(
    photometric: int, *, dng: bool, pixels: np.ndarray = PIXELS[..., 0], pattern: bool = False
) -> bytes:
    """A one-page little-endian TIFF of 8-bit samples."""
    height, width = pixels.shape[:2]
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, photometric)]
    tags += [(273, 4, 400), (277, 3, 1), (278, 4, height), (279, 4, pixels.size)]
    if pattern:
        tags += [(33421, 3, 0x00020002), (33422, 1, 0x02010100)]  # red, green; green, blue
    if dng:
        tags.append((50706, 1, 0x00000401))
    body = struct.pack("<H", len(tags))
    for tag, kind, value in tags:
        count = 4 if kind == 1 else 2 if tag == 33421 else 1
        body += struct.pack("<HHII", tag, kind, count, value)
    head = b"II*\0\x08\0\0\0" + body + b"\0\0\0\0"
    return head + bytes(400 - len(head)) + pixels.tobytes()


@pytest.mark.parametrize(("photometric", "dng"), [(32803, True), (34892, False), (1, True)])
def test_a_camera_raw_file_is_named_as_one(tmp_path, monkeypatch, photometric, dng):
    data = tiff(photometric, dng=dng)
    assert is_camera_raw(data)
    monkeypatch.setitem(__import__("sys").modules, "rawpy", None)
    with pytest.raises(ValueError, match=r"a camera raw file; pip install sddusr\[raw\]"):
        read(tmp_path, data, "photo.dng")


@pytest.mark.parametrize("name", ["photo.tif", "photo.dng"])
def test_an_ordinary_tiff_is_no_camera_raw_file(tmp_path, name):
    data = tiff(1, dng=False)
    assert not is_camera_raw(data)
    assert read(tmp_path, data, name).pixels.shape == PIXELS.shape


@pytest.mark.parametrize("pattern", [False, True])
def test_a_raw_file_is_developed_to_rgb(tmp_path, pattern):
    pytest.importorskip("rawpy")
    ramp = np.tile(np.linspace(20, 230, 96).astype(np.uint8), (64, 1))
    mosaic = ramp.copy()
    mosaic[1::2, 1::2] //= 4  # blue
    data = tiff(32803, dng=True, pixels=mosaic if pattern else ramp, pattern=pattern)
    pixels = read(tmp_path, data, "photo.dng").pixels
    assert (pixels.shape, pixels.dtype) == ((64, 96, 3), np.uint8)
    columns = pixels.mean(axis=0)
    assert (np.diff(columns[4:-4:2, 1]) > -1).all()
    assert columns[90, 1] > columns[10, 1] + 100
    assert (columns[:, 2] != columns[:, 1]).any() == pattern


def test_a_raw_file_that_cannot_be_developed_is_one_line(tmp_path):
    pytest.importorskip("rawpy")
    with pytest.raises(ValueError, match=r"a camera raw file that cannot be developed"):
        read(tmp_path, b"FUJIFILMCCD-RAW" + bytes(4000), "photo.raf")


def test_chunks_keep_their_checksums(tmp_path):
    data = with_chunks(encode_png(PIXELS), b"", b"", (9, 16), ABOUT)
    np.testing.assert_array_equal(read(tmp_path, data).pixels, PIXELS)


@pytest.mark.parametrize("shape", [(32, 40, 3), (64, 64, 4), (333, 517, 3)])
def test_jpeg_xl_comes_back_nearly_and_its_size_is_known_undecoded(tmp_path, shape):
    pytest.importorskip("pillow_jxl")
    rng = np.random.default_rng(0)
    pixels = np.cumsum(rng.integers(-2, 3, shape), axis=1).clip(0, 255).astype(np.uint8)
    place, alpha = str(tmp_path / "picture.jxl"), None
    if shape[2] == 4:
        pixels, alpha = np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3])
    write_picture(place, pixels, alpha=alpha)
    again = read_picture(place)
    assert again.pixels.shape == pixels.shape
    assert (again.alpha is None) == (alpha is None)
    with pytest.raises(ValueError, match="raise --max-megapixels"):
        read_picture(place, shape[0] * shape[1] - 1)
    data = (tmp_path / "picture.jxl").read_bytes()
    for cut in (1, 30, len(data) // 2, len(data) - 20):
        (tmp_path / "picture.jxl").write_bytes(data[:-cut])
        with pytest.raises(ValueError, match="truncated or damaged"):
            read_picture(place)


def test_jpeg_xl_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_jxl.JpegXLImagePlugin", None)
    with pytest.raises(ValueError, match=r"pip install sddusr\[jxl\]"):
        read(tmp_path, b"\xff\x0a" + bytes(40), "picture.jxl")
    with pytest.raises(ValueError, match=r"pip install sddusr\[jxl\]"):
        write_picture(str(tmp_path / "sr.jxl"), PIXELS)
