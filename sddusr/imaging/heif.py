"""HEIC pictures, by pillow-heif: an extra, since its wheels hold an encoder under the GPL."""

import importlib
import io
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16

EXTENSIONS = (".heic", ".heif")

ERRORS = (OSError, ValueError, SyntaxError, RuntimeError, EOFError)
"""What the library raises on files that are damaged, or of a kind that it does not know."""

_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BT601, _BT2020 = 6, 9
_MODES = ("L", "RGB", "RGBA", "L;16", "I;16", "RGB;16", "RGBA;16")


def is_heif(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _BRANDS


def library(place: str) -> Any:
    """The module pillow_heif.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("pillow_heif")
    except ImportError as error:
        raise ValueError(
            f"{place}: HEIC needs pillow-heif, which is not installed; pip install sddusr[heic], "
            "or convert the picture to JPEG or PNG"
        ) from error


def open_file(data: bytes, place: str) -> Any:
    """The library's file with `size` (width, height) and `info`; its pixels are not decoded yet.

    Raises:
        ValueError: no HEIC picture, colours that are neither RGB nor grey, or no library.
    """
    pillow_heif = library(place)
    try:
        file = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
        mode = file.mode
    except (*ERRORS, IndexError) as error:
        raise ValueError(f"{place}: no HEIC picture that can be read ({error})") from error
    if mode not in _MODES:
        raise ValueError(f"{place}: colours are {mode}, need RGB or grey; convert the file")
    return file


def decode(
    file: Any,
) -> UInt8[np.ndarray, "rows cols channels"] | UInt16[np.ndarray, "rows cols channels"]:
    """RGB or RGBA, upright: the format turns its pixels itself.

    10 and 12 bits become 16, white staying white.
    """
    stored = np.array(file)
    if stored.dtype == np.uint16:
        # The library shifts the bits up and leaves zeros below.
        stored |= stored >> np.uint16(file.info["bit_depth"])
    return cv2.cvtColor(stored, cv2.COLOR_GRAY2RGB) if stored.ndim == 2 else stored


def encode(
    channels: UInt8[np.ndarray, "rows cols channels"],
    place: str,
    quality: int,
    exif: bytes,
    icc: bytes,
    cicp: tuple[int, int] | None = None,
    xmp: bytes = b"",
) -> bytes:
    """RGB or RGBA as a HEIC file.

    Raises:
        ValueError: no library, or a size that its encoder does not take, such as 16x16384.
    """
    height, width, num_channels = channels.shape
    mode = "RGB" if num_channels == 3 else "RGBA"
    file = library(place).from_bytes(mode=mode, size=(width, height), data=channels.tobytes())
    extras: dict[str, Any] = {"exif": exif or None}
    if xmp:
        extras["xmp"] = xmp
    if cicp:
        primaries, transfer = cicp
        extras |= {
            "color_primaries": primaries,
            "transfer_characteristics": transfer,
            "matrix_coefficients": _BT2020 if primaries == _BT2020 else _BT601,
            "full_range_flag": 1,
        }
    elif icc:
        extras["icc_profile"] = icc
    content = io.BytesIO()
    try:
        file.save(content, quality=quality, chroma=444 if quality >= 90 else 420, **extras)
    except RuntimeError as error:
        raise ValueError(f"{place}: {height}x{width} not encoded ({error}); write .png") from error
    return content.getvalue()
