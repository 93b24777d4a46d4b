"""PNG, JPEG, BMP, TIFF, WebP and AVIF: Pillow reads their headers, Pillow or OpenCV their pixels.

Pillow decodes what has 8 bits or fewer: it knows palettes, transparent colours and grey with alpha,
and no version of it takes a truncated file for a whole one; of JPEG, PNG and WebP it makes the same
bits as OpenCV. OpenCV decodes what has 16 bits, which Pillow cuts to 8 without a word.
"""

import io
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from sddusr.imaging import containers, exif, heif, jxl
from sddusr.imaging.color_profile import Colors, colors_of_cicp, colors_of_gamma, rgb_profile
from sddusr.imaging.descriptive import Descriptive, clean_xmp, dropped_xmp, find_left_out
from sddusr.imaging.strict_jpeg import check_jpeg

Channels = UInt8[np.ndarray, "rows cols channels"] | UInt16[np.ndarray, "rows cols channels"]
"""RGB, or RGB and alpha."""

EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".avif"),
    *heif.EXTENSIONS,
    *jxl.EXTENSIONS,
)

PILLOW_MAX_PIXELS = 178_956_970
"""Pillow decodes no larger TIFF (of 8 bits) or WebP, whatever our limit."""

MAX_SCANS = 100
"""A progressive JPEG is gone over once a scan, and a scan can be 26 bytes: a file of some megabytes
could take an hour. Encoders write about ten."""

# Image.open has a limit that holds for every user of Pillow in the process, and tries formats that
# we do not want; ours is checked as soon as a header is known.
_PLUGINS: dict[bytes, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
    b"II*\0": TiffImagePlugin.TiffImageFile,
    b"MM\0*": TiffImagePlugin.TiffImageFile,
    b"II+\0": TiffImagePlugin.TiffImageFile,
    b"MM\0+": TiffImagePlugin.TiffImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
}

UNREADABLE = (
    *(OSError, ValueError, SyntaxError, TypeError, ArithmeticError, LookupError, AttributeError),
    *(AssertionError, EOFError, RuntimeError, struct.error, zlib.error, cv2.error),
)
"""What the decoders raise on damaged files."""

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa")

_DEEP_MODES = ("I;16", "I;16B", "LA", "RGB", "RGBA")

_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANES, _EXTRA_SAMPLES, _PAGE_KIND = 258, 262, 284, 338, 254

_XMP = 700

_PREMULTIPLIED, _REDUCED = 1, (1, 3, 5, 7)


class TooLargeError(ValueError):
    """A picture has more pixels than the caller takes; its header said so."""


def read_colors(header: ImageFile.ImageFile, data: bytes, place: str) -> Colors:
    """What the file says of its colours: code points before a profile before gamma, as PNG has it.

    Raises:
        ValueError: colours that are not known here.
    """
    icc = rgb_profile(header.info.get("icc_profile"))
    if header.format == "AVIF" and not icc and (codes := containers.nclx_codes(data)):
        return colors_of_cicp(*codes, place)
    if header.format != "PNG" or header.mode in ("L", "LA", "1", "I;16", "I;16B"):
        return Colors(icc)
    chunks = {name: content for name, content, _ in containers.png_chunks(data)}
    if len(codes := chunks.get(b"cICP", b"")) == 4:
        primaries, transfer, matrix, is_full_range = codes
        if matrix != 0 or is_full_range != 1:
            raise ValueError(f"{place}: colours are no full-range RGB (cICP); convert it to sRGB")
        return colors_of_cicp(primaries, transfer, place)
    if icc or b"sRGB" in chunks:
        return Colors(icc)
    gamma, corners = chunks.get(b"gAMA", b""), chunks.get(b"cHRM", b"")
    return colors_of_gamma(
        struct.unpack(">I", gamma)[0] / 100_000 if len(gamma) == 4 else None,
        [value / 100_000 for value in struct.unpack(">8I", corners)]
        if len(corners) == 32
        else None,
    )


def read_descriptive(header: ImageFile.ImageFile, data: bytes) -> Descriptive:
    info = header.info
    dpi = info.get("dpi")
    packet = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    if isinstance(header, TiffImagePlugin.TiffImageFile):
        packet = header.tag_v2.get(_XMP, b"")
    packet = packet if isinstance(packet, bytes | str) else b""
    comment = info.get("comment") or info.get("Comment") or b""
    is_density = isinstance(dpi, tuple) and all(1 < float(value) <= 1e5 for value in dpi)
    raw_packet = packet.encode() if isinstance(packet, str) else packet
    xmp = clean_xmp(raw_packet)
    left_out = find_left_out(data, raw_packet) if header.format == "JPEG" else ()
    return Descriptive(
        dpi=(float(dpi[0]), float(dpi[1])) if is_density and dpi else None,
        xmp=xmp,
        comment=comment.encode() if isinstance(comment, str) else bytes(comment),
        left_out=left_out + dropped_xmp(raw_packet, xmp),
    )


def too_large_for_pillow(place: str) -> ValueError:
    limit = f"{PILLOW_MAX_PIXELS / 1e6:.0f} megapixels as TIFF or WebP"
    return TooLargeError(f"{place}: more than {limit}; convert it to PNG or JPEG")


def open_header(data: bytes, place: str) -> ImageFile.ImageFile:
    """Read the header alone."""
    plugin = next((plugin for mark, plugin in _PLUGINS.items() if data.startswith(mark)), None)
    if containers.is_avif(data):
        plugin = AvifImagePlugin.AvifImageFile
    reason = "of no known kind"
    try:
        if plugin is not None:
            return plugin(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise too_large_for_pillow(place) from error
    except UNREADABLE as error:
        reason = type(error).__name__
    raise ValueError(
        f"{place}: no picture that can be read ({reason}), need one of {', '.join(EXTENSIONS)}"
    )


def _is_deep(header: ImageFile.ImageFile, data: bytes) -> bool:
    """Whether a colour has 16 bits, which a PNG says at byte 24 and a TIFF in a tag."""
    if isinstance(header, TiffImagePlugin.TiffImageFile):
        return header.tag_v2.get(_BITS_PER_SAMPLE, (1,))[0] > 8
    return header.format == "PNG" and data[24] == 16


def check_kind(header: ImageFile.ImageFile, data: bytes, place: str) -> None:
    """Refuse what would be decoded wrongly, in part, or for hours."""
    deep = _is_deep(header, data)
    if getattr(header, "is_animated", False) or _has_more_pages(header):
        raise ValueError(f"{place}: several frames or pages, need one picture; save one of them")
    if header.mode not in (_DEEP_MODES if deep else _MODES):
        raise ValueError(
            f"{place}: colours are {header.mode}, need RGB or grey of 8 or 16 bits; convert it"
        )
    if deep and _is_unusual(header):
        raise ValueError(f"{place}: an unusual kind of 16-bit picture; convert it to a 16-bit PNG")
    if header.format == "JPEG" and containers.num_jpeg_scans(data) > MAX_SCANS:
        raise ValueError(f"{place}: more than {MAX_SCANS} scans; save it anew if it can be trusted")


def _is_unusual(header: ImageFile.ImageFile) -> bool:
    """Whether it is one of those that OpenCV gives wrongly and says nothing."""
    if not isinstance(header, TiffImagePlugin.TiffImageFile):
        return header.mode.startswith("I") and "transparency" in header.info
    tags = header.tag_v2
    return (
        tags[_BITS_PER_SAMPLE][0] != 16
        or tags.get(_PLANES, 1) != 1
        or tags.get(_PHOTOMETRIC, 0) not in (1, 2)
        or _PREMULTIPLIED in tags.get(_EXTRA_SAMPLES, ())
    )


def _has_more_pages(header: ImageFile.ImageFile) -> bool:
    """Whether a TIFF goes on after its first page, or opens with a thumbnail as raw files do."""
    tags = getattr(header, "tag_v2", None)
    return tags is not None and (tags.next != 0 or tags.get(_PAGE_KIND) in _REDUCED)


def read_channels(header: ImageFile.ImageFile, data: bytes) -> Channels:
    """RGB, or RGB and alpha, with rows as they are stored (a TIFF's as they are shown)."""
    if header.format == "PNG":
        containers.check_png(data)
    if header.format == "JPEG":
        check_jpeg(data)
    if _is_deep(header, data):
        return _deep_channels(data, header.has_transparency_data)
    mode = "RGBA" if header.has_transparency_data else "RGB"
    return np.array(header if header.mode == mode else header.convert(mode))


def _deep_channels(data: bytes, has_alpha: bool) -> Channels:
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if stored is None or stored.dtype != np.uint16:
        raise ValueError("not decoded to 16 bits")
    if stored.ndim == 2:
        return cv2.cvtColor(stored, cv2.COLOR_GRAY2RGB)
    if stored.shape[2] == 3:
        return cv2.cvtColor(stored, cv2.COLOR_BGR2RGB)
    return cv2.cvtColor(stored, cv2.COLOR_BGRA2RGBA if has_alpha else cv2.COLOR_BGRA2RGB)


def read_exif(header: ImageFile.ImageFile, data: bytes) -> bytes:
    if isinstance(header, TiffImagePlugin.TiffImageFile):
        return exif.from_tiff(header.getexif())
    if header.format == "PNG":
        # It may come after the pixels, where opening the file has not looked.
        chunks = containers.png_chunks(data)
        return next((content for name, content, _ in chunks if name == b"eXIf"), b"")
    block = header.info.get("exif", b"")
    return block if isinstance(block, bytes) else b""
