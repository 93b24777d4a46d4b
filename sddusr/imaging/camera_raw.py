"""Camera raw files: known by what they hold, developed where rawpy is installed."""

import importlib
import io
import struct
from typing import Any

import numpy as np
from jaxtyping import UInt8

EXTENSIONS = (
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".rw2", ".orf", ".raf", ".pef", ".srw", ".nrw"),
)
_SIGNATURES = (b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR")
_DNG_VERSION, _PHOTOMETRIC, _SUB_IFDS, _PAGE_KIND, _MAKE = 50706, 262, 330, 254, 271
_CFA, _LINEAR_RAW = 32803, 34892


def is_camera_raw(data: bytes) -> bool:
    """Whether a file holds a sensor's data: DNG, or a maker's own format."""
    if data.startswith(_SIGNATURES) or data[4:12] == b"ftypcrx " or data[8:11] == b"CR\x02":
        return True
    tags = _first_directory(data)
    has_thumbnail_first = tags.get(_PAGE_KIND) == 1 and _SUB_IFDS in tags and _MAKE in tags
    return (
        _DNG_VERSION in tags or tags.get(_PHOTOMETRIC) in (_CFA, _LINEAR_RAW) or has_thumbnail_first
    )


def _first_directory(data: bytes) -> dict[int, int]:
    """Tag -> value (or where its values are) of a TIFF's first directory."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return {}
    try:
        start = struct.unpack_from(f"{order}I", data, 4)[0]
        count = struct.unpack_from(f"{order}H", data, start)[0]
        tags = {}
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", data, entry)
            tags[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)[0]
        return tags
    except struct.error:
        return {}


def library(place: str) -> Any:
    """The module rawpy.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("rawpy")
    except ImportError as error:
        raise ValueError(
            f"{place}: a camera raw file; pip install sddusr[raw] to develop it here, or develop "
            f"it to JPEG, PNG or TIFF first"
        ) from error


def open_raw(data: bytes, place: str) -> Any:
    """The library's file, whose `sizes` are known and whose pixels are not developed yet.

    Raises:
        ValueError: no library, or a file that it cannot read.
    """
    rawpy = library(place)
    try:
        return rawpy.imread(io.BytesIO(data))
    except (rawpy.LibRawError, OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{place}: a camera raw file that cannot be developed ({error!s:.80}); develop it to "
            f"JPEG, PNG or TIFF with the camera's own program"
        ) from error


def size_of(raw: Any) -> tuple[int, int]:
    """Height and width, upright."""
    height, width = raw.sizes.iheight, raw.sizes.iwidth
    return (width, height) if raw.sizes.flip in (5, 6) else (height, width)


def develop(raw: Any, place: str) -> UInt8[np.ndarray, "rows cols 3"]:
    """sRGB, upright, with the camera's white balance and its own brightness.

    Raises:
        ValueError: damaged.
    """
    rawpy = library(place)
    try:
        with raw:
            pixels = raw.postprocess(use_camera_wb=True, no_auto_bright=True)
    except (rawpy.LibRawError, OSError, ValueError, MemoryError) as error:
        raise ValueError(
            f"{place}: truncated or damaged picture ({type(error).__name__}); replace the file"
        ) from error
    height, width = pixels.shape[:2]
    return np.ascontiguousarray(np.broadcast_to(pixels, (height, width, 3)))  # or one of greys
