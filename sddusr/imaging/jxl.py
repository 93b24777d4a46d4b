"""JPEG XL pictures of 8 bits, by pillow-jxl-plugin: an extra, `sddusr[jxl]`."""

import importlib
import io
import struct
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

EXTENSIONS = (".jxl",)

ERRORS = (OSError, ValueError, SyntaxError, RuntimeError, EOFError, TypeError, struct.error)
"""What the library raises on damaged files."""

_BARE, _CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_MODES = ("L", "LA", "RGB", "RGBA")


def is_jxl(data: bytes) -> bool:
    return data.startswith((_BARE, _CONTAINER))


def library(place: str) -> Any:
    """The plugin's module.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("pillow_jxl.JpegXLImagePlugin")
    except ImportError as error:
        raise ValueError(
            f"{place}: JPEG XL needs pillow-jxl-plugin, which is not installed; pip install "
            f"sddusr[jxl], or convert the picture to JPEG or PNG"
        ) from error


def size_of(data: bytes, place: str) -> tuple[int, int]:
    """Height and width as stored, by the header alone: the library decodes as it opens.

    Raises:
        ValueError: no header.
    """
    stream = _codestream(data)
    if not stream.startswith(_BARE) or len(stream) < 14:
        raise ValueError(f"{place}: truncated or damaged picture (no header); replace the file")
    bits = _Bits(stream[2:14])
    is_small = bits.take(1)
    height = 8 * (bits.take(5) + 1) if is_small else bits.size()
    ratio = bits.take(3)
    if ratio:
        numerator, denominator = _RATIOS[ratio]
        return height, height * numerator // denominator
    return height, 8 * (bits.take(5) + 1) if is_small else bits.size()


def _codestream(data: bytes) -> bytes:
    """The start of the coded picture, bare or in its box."""
    if data.startswith(_BARE):
        return data[:64]
    at = 0
    while at + 16 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if length == 1:
            length, start = struct.unpack_from(">Q", data, start)[0], start + 8
        if name in (b"jxlc", b"jxlp"):
            start += 4 if name == b"jxlp" else 0
            return data[start : start + 64]
        if length < 8:
            break
        at += length
    return b""


class _Bits:
    """Numbers of so many bits, the lowest first."""

    def __init__(self, data: bytes) -> None:
        self._number = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        value = self._number & ((1 << count) - 1)
        self._number >>= count
        return value

    def size(self) -> int:
        return 1 + self.take((9, 13, 18, 30)[self.take(2)])


def decode(data: bytes, place: str) -> tuple[UInt8[np.ndarray, "rows cols channels"], Any]:
    """RGB or RGBA, upright as the format turns it, and what the file says beside it.

    Raises:
        ValueError: no library, or more than 8 bits; ERRORS where it is damaged.
    """
    image = library(place).JXLImageFile(io.BytesIO(data))
    if image.mode not in _MODES or getattr(image, "n_frames", 1) > 1:
        raise ValueError(
            f"{place}: colours are {image.mode}, need one picture of 8 bits; convert it"
        )
    image.load()
    mode = "RGBA" if image.mode in ("LA", "RGBA") else "RGB"
    return np.array(image.convert(mode)), image.info


def encode(
    channels: UInt8[np.ndarray, "rows cols channels"],
    place: str,
    quality: int,
    exif: bytes,
    icc: bytes,
) -> bytes:
    """RGB or RGBA as a JPEG XL file."""
    library(place)
    content = io.BytesIO()
    extras = {"exif": exif} if exif else {}
    if icc:
        extras["icc_profile"] = icc
    Image.fromarray(channels).save(content, "JXL", quality=quality, **extras)
    return content.getvalue()
