"""Pictures from files and to files: 8-bit RGB, sizes known before a byte is decoded."""

import hashlib
import io
import warnings
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sddusr.data import places

MAX_PIXELS = 100_000_000
"""A picture larger than this is refused unless the user raises the limit."""

PILLOW_MAX_PIXELS = 178_956_970
"""Pillow opens nothing larger, whatever the limit."""

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

_ORIENTATION_TAG = 0x0112
_FIRST_SIDEWAYS = 5
"""EXIF orientations from here on swap height and width; OpenCV turns such pictures upright."""


class Picture(NamedTuple):
    pixels: UInt8[np.ndarray, "rows cols 3"]
    sha256: str
    """Of the file; a flipped bit in a JPEG decodes without complaint."""


def read_rgb(place: str, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read an 8-bit picture as RGB; grey becomes three equal channels, alpha is dropped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no picture, larger than `max_pixels`, truncated, or not 8-bit.
    """
    data = places.read_bytes(place)
    height, width = _header_size(data, place)
    if height * width > max_pixels:
        raise ValueError(
            f"{place}: {height}x{width} is {height * width / 1e6:.1f} megapixels, the limit is "
            f"{max_pixels / 1e6:.1f}; raise --max-megapixels if the file can be trusted"
        )
    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ValueError(f"{place}: cannot be decoded ({error.err}); replace the file") from error
    if pixels is None:
        raise ValueError(f"{place}: truncated or damaged picture; replace the file")
    if pixels.dtype != np.uint8:
        raise ValueError(f"{place}: pixels are {pixels.dtype}, need 8 bits; convert the file")
    if pixels.shape != (height, width, 3):
        raise ValueError(
            f"{place}: decoded to {pixels.shape}, its header says {height}x{width}; replace it"
        )
    return Picture(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), hashlib.sha256(data).hexdigest())


def _header_size(data: bytes, place: str) -> tuple[int, int]:
    """Height and width as a viewer shows the picture, from the header alone."""
    try:
        with warnings.catch_warnings():
            # Our limit takes the place of its bomb warning; damaged tags are the decoder's matter.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as header:
                width, height = header.size
                # Only what is known by now: Pillow decodes a whole PNG to look for EXIF behind its
                # pixels, and gives a TIFF's size as it is turned.
                exif = header.getexif() if "exif" in header.info else {}
                sideways = exif.get(_ORIENTATION_TAG, 1) >= _FIRST_SIDEWAYS
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{place}: more than {PILLOW_MAX_PIXELS / 1e6:.0f} megapixels; cut it into pieces"
        ) from error
    except (OSError, ValueError, SyntaxError, TypeError, ArithmeticError, LookupError) as error:
        raise ValueError(
            f"{place}: no picture that can be read ({type(error).__name__}), need one of "
            f"{', '.join(EXTENSIONS)}"
        ) from error
    return (width, height) if sideways else (height, width)


def encode_png(pixels: UInt8[np.ndarray, "rows cols 3"]) -> bytes:
    """RGB as a PNG file."""
    done, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"a picture of {pixels.shape} cannot be written as PNG")
    return data.tobytes()


def write_png(place: str, pixels: UInt8[np.ndarray, "rows cols 3"]) -> None:
    """Write RGB to a PNG file, atomically."""
    places.write_atomic(place, encode_png(pixels))
