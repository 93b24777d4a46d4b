"""Pictures out of files: what kind, how large, then the pixels and what the file says of them."""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from sddusr.imaging import camera_raw, exif, heif, jxl
from sddusr.imaging.color_profile import SRGB_COLORS, Colors, colors_of_cicp, rgb_profile
from sddusr.imaging.common_formats import (
    UNREADABLE,
    Channels,
    TooLargeError,
    check_kind,
    open_header,
    read_channels,
    read_colors,
    read_descriptive,
    read_exif,
    too_large_for_pillow,
)
from sddusr.imaging.descriptive import NOTHING, Descriptive, clean_xmp, dropped_xmp

Shown = (
    UInt8[np.ndarray, "shown_rows shown_cols channels"]
    | UInt16[np.ndarray, "shown_rows shown_cols channels"]
)
"""`Channels`, upright."""

MOST_PIXELS = 2**30
"""OpenCV's own limit, and what a user can raise ours to."""


class Decoded(NamedTuple):
    channels: Shown
    exif: bytes
    colors: Colors
    about: Descriptive


def decode(data: bytes, place: str, max_pixels: int) -> Decoded:
    """Decode a picture whose header says that it is small enough.

    Raises:
        ValueError: no picture, larger than `max_pixels`, several frames, damaged, or with colours
            that are neither RGB nor grey of at most 16 bits.
    """
    if heif.is_heif(data):
        return _decode_heif(data, place, max_pixels)
    if jxl.is_jxl(data):
        return _decode_jxl(data, place, max_pixels)
    if camera_raw.is_camera_raw(data):
        return _decode_raw(data, place, max_pixels)
    with warnings.catch_warnings():
        # Our limit takes the place of Pillow's warning; damaged tags are no matter of the pixels.
        warnings.simplefilter("ignore")
        header = open_header(data, place)
        width, height = header.size
        check_size(place, height, width, max_pixels)
        check_kind(header, data, place)
        colors = read_colors(header, data, place)
        try:
            channels, block = read_channels(header, data), read_exif(header, data)
            about = read_descriptive(header, data)
        except Image.DecompressionBombError as error:
            raise too_large_for_pillow(place) from error
        except UNREADABLE as error:
            raise _damaged(place, error) from error
    _check_shape(place, channels, height, width)
    # Both decoders have turned a TIFF already, and nothing else.
    turn = 1 if header.format == "TIFF" else exif.orientation(block)
    if turn >= 5 and about.dpi:
        about = about._replace(dpi=about.dpi[::-1])
    return Decoded(turned(channels, turn), block, colors, about)


def _decode_heif(data: bytes, place: str, max_pixels: int) -> Decoded:
    file = heif.open_file(data, place)
    width, height = file.size
    check_size(place, height, width, max_pixels)
    try:
        channels = heif.decode(file)
    except heif.ERRORS as error:
        raise _damaged(place, error) from error
    _check_shape(place, channels, height, width)
    icc, nclx = rgb_profile(file.info.get("icc_profile")), file.info.get("nclx_profile")
    colors = Colors(icc)
    if nclx and not icc:
        primaries = int(nclx["color_primaries"])
        colors = colors_of_cicp(primaries, int(nclx["transfer_characteristics"]), place)
    aux = " ".join(map(str, file.info.get("aux") or {})).lower()
    left_out = [name for name, mark in (("gain map", "gainmap"),) if mark in aux]
    left_out += ["depth map"] if file.info.get("depth_images") else []
    packet = file.info.get("xmp") or b""
    xmp = clean_xmp(packet)
    about = Descriptive(xmp=xmp, left_out=(*left_out, *dropped_xmp(packet, xmp)))
    return Decoded(channels, file.info["exif"] or b"", colors, about)


def _decode_jxl(data: bytes, place: str, max_pixels: int) -> Decoded:
    height, width = jxl.size_of(data, place)
    check_size(place, height, width, max_pixels)
    jxl.library(place)
    try:
        channels, info = jxl.decode(data, place)
    except jxl.ERRORS as error:
        if isinstance(error, ValueError) and place in str(error):
            raise
        raise _damaged(place, error) from error
    if sorted(channels.shape[:2]) != sorted((height, width)):
        _check_shape(place, channels, height, width)
    block = info.get("exif") or b""
    return Decoded(channels, block, Colors(rgb_profile(info.get("icc_profile"))), NOTHING)


def _decode_raw(data: bytes, place: str, max_pixels: int) -> Decoded:
    raw = camera_raw.open_raw(data, place)
    height, width = camera_raw.size_of(raw)
    check_size(place, height, width, max_pixels)
    channels = camera_raw.develop(raw, place)
    _check_shape(place, channels, height, width)
    return Decoded(channels, b"", SRGB_COLORS, NOTHING)


def check_size(place: str, height: int, width: int, max_pixels: int) -> None:
    """Refuse, by what a header says, a picture that is too large to decode.

    Raises:
        TooLargeError: it is.
    """
    if height * width > MOST_PIXELS:
        raise TooLargeError(
            f"{place}: {height}x{width} is more than {MOST_PIXELS / 1e6:.0f} megapixels; cut it up"
        )
    if height * width > max_pixels:
        raise TooLargeError(
            f"{place}: {height}x{width} is {height * width / 1e6:.1f} megapixels, the limit is "
            f"{max_pixels / 1e6:.1f}; raise --max-megapixels if the file can be trusted"
        )


def _check_shape(place: str, channels: Channels, height: int, width: int) -> None:
    if channels.shape[:2] != (height, width):
        raise ValueError(
            f"{place}: decoded to {channels.shape}, its header says {height}x{width}; replace it"
        )


def _damaged(place: str, error: Exception) -> ValueError:
    return ValueError(
        f"{place}: truncated or damaged picture ({type(error).__name__}); replace the file"
    )


def turned(channels: Channels, orientation: int) -> Shown:
    """Rows and columns as EXIF's orientation, 1 to 8, says that they are to be shown."""
    if orientation >= 5:
        channels = channels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        channels = channels[::-1]
    if orientation in (2, 3, 6, 7):
        channels = channels[:, ::-1]
    return np.ascontiguousarray(channels)
