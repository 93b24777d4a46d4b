"""Pictures into files: which formats hold what, and the bytes of each."""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16
from numpy.typing import DTypeLike
from PIL import Image, TiffImagePlugin

from sddusr import storage
from sddusr.imaging import exif, heif, jxl
from sddusr.imaging.descriptive import NOTHING, Descriptive

Channels = UInt8[np.ndarray, "rows cols channels"] | UInt16[np.ndarray, "rows cols channels"]
"""RGB, or RGB and alpha."""

_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WebP",
    ".avif": "AVIF",
    **dict.fromkeys(heif.EXTENSIONS, "HEIC"),
    **dict.fromkeys(jxl.EXTENSIONS, "JPEG XL"),
}
_MAX_SIDE_PX = {
    "PNG": 1_000_000,
    "JPEG": 65_500,
    "TIFF": 2**31 - 1,
    "WebP": 16_383,
    "AVIF": 16_384,
    "HEIC": 16_384,
    "JPEG XL": 65_535,
}
"""What the encoders take; JPEG's own limit is 65,535."""
_DEEP = ("PNG", "TIFF")
_DTYPES = {False: (np.uint8,), True: (np.uint8, np.uint16)}
_MAX_TIFF_BYTES = 2**32 - 2**24
"""Offsets have 32 bits; the room is for all that is not pixels, and strips that do not shrink."""
_MAX_JPEG_EXIF_BYTES = 65_533 - 6
_MAX_JPEG_XMP_BYTES = 65_502
_METRES_PER_INCH = 0.0254
_XMP_TAG = 700
_FULL_CHROMA_QUALITY = 90
_STRIP_BYTES = 2**20
_DEFLATE, _DIFFERENCES = 8, 2


def check_output(
    place: str, height: int, width: int, dtype: DTypeLike, has_alpha: bool, quality: int = 95
) -> None:
    """Refuse what `encode` could not write, before the hours that it takes to compute it.

    Raises:
        ValueError: an unknown extension, or a size, depth, alpha or quality that its format cannot
            hold; or HEIC without its library.
    """
    kind = _kind(place)
    if kind == "HEIC":
        heif.library(place)
    if kind == "JPEG XL":
        jxl.library(place)
    if max(height, width) > _MAX_SIDE_PX[kind]:
        raise ValueError(
            f"{place}: {height}x{width}, {kind} holds at most {_MAX_SIDE_PX[kind]} pixels a side; "
            "write .png or .tif"
        )
    if np.dtype(dtype) not in _DTYPES[kind in _DEEP]:
        depths = "8 or 16 bits" if kind in _DEEP else "8 bits"
        raise ValueError(
            f"{place}: pixels are {np.dtype(dtype)}, {kind} holds {depths}; write .png or .tif, or "
            "ask for 8 bits"
        )
    if has_alpha and kind == "JPEG":
        raise ValueError(f"{place}: JPEG holds no alpha; write .png, .tif or .webp")
    num_bytes = height * width * (4 if has_alpha else 3) * np.dtype(dtype).itemsize
    if kind == "TIFF" and num_bytes > _MAX_TIFF_BYTES:
        raise ValueError(f"{place}: {num_bytes / 2**30:.1f} GiB, TIFF holds 4; write .png")
    if not 1 <= quality <= 100:
        raise ValueError(f"{place}: the quality is {quality}, need 1 to 100")


def _kind(place: str) -> str:
    path = place if storage.is_local(place) else place.partition("?")[0]
    extension = os.path.splitext(path)[1].lower()
    if extension not in _FORMATS:
        raise ValueError(
            f"{place}: unknown kind of picture {extension!r}, need one of {', '.join(_FORMATS)}"
        )
    return _FORMATS[extension]


def holds_cicp(place: str) -> bool:
    """Whether a format can say its colours by code points."""
    return _kind(place) in ("PNG", "HEIC")


def not_held(place: str, about: Descriptive) -> list[str]:
    """What of these the format of a place does not hold."""
    kind = _kind(place)
    is_long = len(about.xmp) > _MAX_JPEG_XMP_BYTES
    lost = {
        "density": about.dpi and kind not in ("JPEG", "PNG", "TIFF"),
        "comment": about.comment and kind not in ("JPEG", "PNG"),
        "XMP": about.xmp and (kind in ("AVIF", "JPEG XL") or (kind == "JPEG" and is_long)),
    }
    return [name for name, is_lost in lost.items() if is_lost]


def encode(
    place: str,
    channels: Channels,
    block: bytes,
    icc: bytes,
    quality: int,
    cicp: tuple[int, int] | None = None,
    about: Descriptive = NOTHING,
) -> bytes:
    """The file that a place's extension asks for; see `check_output` for what it can hold."""
    kind = _kind(place)
    if kind == "PNG":
        return with_chunks(encode_png(channels), block, icc, None if icc else cicp, about)
    if kind == "TIFF":
        return _encode_tiff(channels, block, icc, about)
    if kind == "HEIC":
        return heif.encode(channels, place, quality, block, icc, cicp, about.xmp)
    if kind == "JPEG XL":
        return jxl.encode(channels, place, quality, block, icc)
    content = io.BytesIO()
    image = Image.fromarray(channels)
    if kind == "WebP":
        # exact: colours below full transparency are the user's too.
        extras = {"exif": block, "icc_profile": icc, "xmp": about.xmp}
        image.save(content, "WEBP", quality=quality, exact=True, **extras)
    elif kind == "AVIF":
        extras = {"exif": block, "icc_profile": icc} if icc else {"exif": block}
        image.save(content, "AVIF", quality=quality, **extras)
    else:
        subsampling = 0 if quality >= _FULL_CHROMA_QUALITY else 2
        extras = _jpeg_extras(block, about)
        image.save(
            content, "JPEG", quality=quality, subsampling=subsampling, icc_profile=icc, **extras
        )
    return content.getvalue()


def _jpeg_extras(block: bytes, about: Descriptive) -> dict[str, Any]:
    """What of EXIF and description fits in a JPEG's segments."""
    fits = 0 < len(block) <= _MAX_JPEG_EXIF_BYTES
    extras: dict[str, Any] = {"exif": b"Exif\0\0" + block if fits else b""}
    if about.dpi:
        extras["dpi"] = tuple(round(value) for value in about.dpi)
    if about.xmp and len(about.xmp) <= _MAX_JPEG_XMP_BYTES:
        extras["xmp"] = about.xmp
    if about.comment:
        extras["comment"] = about.comment[:_MAX_JPEG_XMP_BYTES]
    return extras


def encode_png(channels: Channels) -> bytes:
    """RGB or RGBA as a PNG file."""
    order = cv2.COLOR_RGB2BGR if channels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    done, data = cv2.imencode(".png", cv2.cvtColor(channels, order))
    if not done:
        raise ValueError(f"a picture of {channels.shape} cannot be written as PNG")
    return data.tobytes()


def with_chunks(
    png: bytes,
    block: bytes,
    icc: bytes,
    cicp: tuple[int, int] | None = None,
    about: Descriptive = NOTHING,
) -> bytes:
    """A PNG with what it says of its colours and its photo, which stands right after its header."""
    after_header = 8 + 12 + 13
    chunks = []
    if cicp:
        chunks.append(_chunk(b"cICP", bytes([*cicp, 0, 1])))
    if icc:
        chunks.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)))
    if block:
        chunks.append(_chunk(b"eXIf", block))
    if about.dpi:
        per_metre = [round(value / _METRES_PER_INCH) for value in about.dpi]
        chunks.append(_chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if about.xmp:
        chunks.append(_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + about.xmp))
    if about.comment:
        chunks.append(_comment_chunk(about.comment.replace(b"\0", b" ")))
    return b"".join([png[:after_header], *chunks, png[after_header:]])


def _comment_chunk(comment: bytes) -> bytes:
    """UTF-8 needs iTXt; tEXt is Latin-1, as which ASCII and unknown encodings pass."""
    try:
        is_utf8 = not comment.decode().isascii()
    except UnicodeDecodeError:
        is_utf8 = False
    if is_utf8:
        return _chunk(b"iTXt", b"Comment\0\0\0\0\0" + comment)
    return _chunk(b"tEXt", b"Comment\0" + comment)


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(content, zlib.crc32(name)))
    return struct.pack(">I", len(content)) + name + content + checksum


def _encode_tiff(channels: Channels, block: bytes, icc: bytes, about: Descriptive) -> bytes:
    """Deflated strips of differences. Pillow writes no 16 bits of RGB, OpenCV no profile."""
    height, width, num_channels = channels.shape
    num_rows = max(1, _STRIP_BYTES // (width * num_channels * channels.itemsize))
    strips = [zlib.compress(strip, 6) for strip in _strips(channels, num_rows)]
    lengths = [len(strip) for strip in strips]
    # Pillow lays out the directory, and adds its length to the strips' offsets.
    tags = exif.tiff_directory(block)
    bits = 8 * channels.itemsize
    tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH] = width, height
    tags[TiffImagePlugin.BITSPERSAMPLE] = (bits,) * num_channels
    tags[TiffImagePlugin.COMPRESSION], tags[TiffImagePlugin.PREDICTOR] = _DEFLATE, _DIFFERENCES
    tags[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 2
    tags[TiffImagePlugin.SAMPLESPERPIXEL] = num_channels
    tags[TiffImagePlugin.PLANAR_CONFIGURATION] = 1
    if num_channels == 4:
        tags[TiffImagePlugin.EXTRASAMPLES] = 2
    if icc:
        tags[TiffImagePlugin.ICCPROFILE] = icc
    if about.dpi:
        tags[TiffImagePlugin.X_RESOLUTION], tags[TiffImagePlugin.Y_RESOLUTION] = about.dpi
        tags[TiffImagePlugin.RESOLUTION_UNIT] = 2
    if about.xmp:
        tags.tagtype[_XMP_TAG] = 1
        tags[_XMP_TAG] = about.xmp
    tags[TiffImagePlugin.ROWSPERSTRIP] = num_rows
    tags[TiffImagePlugin.STRIPBYTECOUNTS] = tuple(lengths)
    tags[TiffImagePlugin.STRIPOFFSETS] = tuple(np.cumsum([0, *lengths[:-1]]).tolist())
    return b"".join([exif.TIFF_HEADER, tags.tobytes(len(exif.TIFF_HEADER)), *strips])


def _strips(channels: Channels, num_rows: int) -> Iterator[bytes]:
    """Rows as differences to the pixel on the left, which deflate better; they wrap around."""
    for top in range(0, len(channels), num_rows):
        rows = channels[top : top + num_rows]
        left = np.pad(rows[:, :-1], ((0, 0), (1, 0), (0, 0)))
        yield (rows - left).astype(rows.dtype.newbyteorder("<"), copy=False).tobytes()
