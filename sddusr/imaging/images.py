"""Pictures from files and to files, of 8 or 16 bits; sizes known before a pixel is decoded."""

import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8, UInt16

from sddusr import storage
from sddusr.imaging import exif
from sddusr.imaging.color_profile import HDR_TRANSFERS
from sddusr.imaging.common_formats import EXTENSIONS, TooLargeError
from sddusr.imaging.decoding import MOST_PIXELS, decode
from sddusr.imaging.descriptive import NOTHING, Descriptive
from sddusr.imaging.encoding import check_output, encode, encode_png, holds_cicp, not_held

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "MOST_PIXELS",
    "NO_METADATA",
    "Metadata",
    "Picture",
    "TooLargeError",
    "check_colors",
    "check_output",
    "describe_lost",
    "encode_png",
    "focal_length_35mm",
    "read_picture",
    "read_rgb",
    "write_picture",
    "write_png",
]

MAX_PIXELS = 100_000_000
"""A picture larger than this is refused unless the user raises the limit."""

_ROUND_TO_8_BITS = ((np.arange(65_536, dtype=np.uint32) + 128) // 257).astype(np.uint8)


class Metadata(NamedTuple):
    """What goes from a picture to what is made of it; empty, none of it does."""

    exif: bytes = b""
    """The EXIF block, from its byte order on; it says that the pixels are upright."""
    icc: bytes = b""
    """The profile of the RGB colours."""
    cicp: tuple[int, int] | None = None
    """Code points of primaries and transfer, where the file has them and no profile."""
    about: Descriptive = NOTHING
    """Density, XMP, comment."""


NO_METADATA = Metadata()


class Picture(NamedTuple):
    pixels: UInt8[np.ndarray, "rows cols 3"] | UInt16[np.ndarray, "rows cols 3"]
    """RGB, upright."""
    sha256: str
    """Of the file; a flipped bit in a JPEG decodes without complaint."""
    alpha: UInt8[np.ndarray, "rows cols"] | UInt16[np.ndarray, "rows cols"] | None = None
    """None where all is opaque."""
    metadata: Metadata = NO_METADATA


def read_picture(place: str, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a picture as RGB in its own depth; grey becomes three equal channels.

    Raises:
        FileNotFoundError: no such file.
        TooLargeError: larger than `max_pixels` (a ValueError).
        ValueError: no picture, damaged, several frames, or colours that are not RGB or grey of at
            most 16 bits.
    """
    data = storage.read_bytes(place)
    channels, block, colors, about = decode(data, place, max_pixels)
    height, width = channels.shape[:2]
    pixels, alpha = channels, None
    if channels.shape[2] == 4:
        pixels, alpha = channels[..., :3].copy(), channels[..., 3].copy()
        if (alpha == np.iinfo(alpha.dtype).max).all():
            alpha = None
    described = exif.describe_pixels(block, height, width)
    metadata = Metadata(described, colors.icc, colors.cicp, about)
    return Picture(pixels, hashlib.sha256(data).hexdigest(), alpha, metadata)


def read_rgb(place: str, max_pixels: int = MAX_PIXELS, *, keep_alpha: bool = False) -> Picture:
    """Read a picture as 8-bit RGB: 16 bits are rounded, alpha too or, as a rule, dropped.

    Raises:
        FileNotFoundError, ValueError: see `read_picture`.
    """
    picture = read_picture(place, max_pixels)
    alpha = picture.alpha if keep_alpha else None
    if picture.pixels.dtype == np.uint16:
        picture = picture._replace(pixels=_ROUND_TO_8_BITS[picture.pixels])
        alpha = None if alpha is None else _ROUND_TO_8_BITS[alpha]
    return picture._replace(alpha=alpha)


def write_picture(
    place: str,
    pixels: UInt8[np.ndarray, "rows cols 3"] | UInt16[np.ndarray, "rows cols 3"],
    *,
    alpha: UInt8[np.ndarray, "rows cols"] | UInt16[np.ndarray, "rows cols"] | None = None,
    metadata: Metadata = NO_METADATA,
    quality: int = 95,
) -> None:
    """Write a picture, atomically, in the format of its extension.

    PNG and TIFF lose nothing; JPEG, WebP and HEIC go by `quality` (1 to 100). A JPEG leaves out an
    EXIF block of more than 64 KB, which it cannot hold, and a TIFF a damaged one.

    Raises:
        ValueError: see `check_output`; or alpha of another size or depth than the pixels.
        OSError: see `storage.write_atomic`.
    """
    height, width = pixels.shape[:2]
    check_output(place, height, width, pixels.dtype, alpha is not None, quality)
    check_colors(place, metadata)
    if alpha is not None and (alpha.dtype, alpha.shape) != (pixels.dtype, pixels.shape[:2]):
        raise ValueError(
            f"{place}: alpha is {alpha.dtype} {alpha.shape}, need {pixels.dtype} {height}x{width}"
        )
    channels = pixels if alpha is None else np.dstack([pixels, alpha])
    block = exif.describe_pixels(metadata.exif, height, width)
    content = encode(place, channels, block, metadata.icc, quality, metadata.cicp, metadata.about)
    storage.write_atomic(place, content)


def check_colors(place: str, metadata: Metadata) -> None:
    """Refuse, before the work, colours that a format cannot hold.

    Raises:
        ValueError: HDR (PQ or HLG) in a format without code points.
    """
    if metadata.cicp and metadata.cicp[1] in HDR_TRANSFERS and not holds_cicp(place):
        raise ValueError(
            f"{place}: the picture is HDR ({HDR_TRANSFERS[metadata.cicp[1]]}), which this format "
            f"cannot say; write .png or .heic, or convert the picture to sRGB first"
        )


def describe_lost(place: str, metadata: Metadata) -> str:
    """What of a picture's metadata the format of `place` does not hold; empty: nothing is lost."""
    return ", ".join((*metadata.about.left_out, *not_held(place, metadata.about)))


def write_png(place: str, pixels: UInt8[np.ndarray, "rows cols 3"]) -> None:
    """Write RGB to a PNG file, atomically."""
    storage.write_atomic(place, encode_png(pixels))


def focal_length_35mm(metadata: Metadata) -> float | None:
    """Focal length in mm as if the sensor's long side were 36 mm; None if unknown or absurd."""
    return exif.focal_length_35mm(metadata.exif)
