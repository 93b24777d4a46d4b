"""Refuse damaged JPEG files, which decoders take for whole ones.

libjpeg fills what is missing with grey and warns; neither Pillow nor OpenCV passes the warning on.
"""

import re
from collections.abc import Iterator

from sddusr.imaging.containers import jpeg_segments

_NOT_DAMAGED = ("subsampling", "colorspace", "color transform", "progression sequence", "CMYK")
"""Words of messages about unusual kinds of JPEG, whose data may be whole."""

_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_END = b"\xff\xd9"
_ZEROS = bytes(64)
"""Longer than any block of pixels makes it, unless no change is written as zeros."""
_BASELINE = (0xC0, 0xC1)
_HUFFMAN_TABLES, _SCAN = 0xC4, 0xDA
_END_OF_BLOCK = 0


def check_jpeg(data: bytes) -> None:
    """Decode a JPEG strictly, at an eighth of its size.

    Raises:
        ValueError: its pixels end early, or its coded data is damaged.
    """
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(
            data, "GRAY", fastdct=True, fastupsample=True, min_height=1, min_width=1
        )
    except ValueError as error:
        if not _is_harmless(str(error), data):
            raise
    if _has_wiped_bytes(data):
        raise ValueError("a part of it was overwritten with zeros")


def _is_harmless(message: str, data: bytes) -> bool:
    """Whether a decoder's message says nothing of damage: some cameras pad before the end."""
    if any(words in message for words in _NOT_DAMAGED):
        return True
    if padded := _EXTRANEOUS.search(message):
        # A preview or gain map may follow as a JPEG of its own: the end is the first picture's.
        last_end = max((end for _, _, end in jpeg_segments(data)), default=0)
        end = data.find(_END, last_end)
        return end >= 0 and not data[end - int(padded[1]) : end].strip(b"\0\xff")
    return False


def _has_wiped_bytes(data: bytes) -> bool:
    """Whether the coded pixels of a sequential JPEG hold zeros that no picture is coded to.

    A flat region is a run of zeros only where the code of "no more changes in this block" is zeros.
    """
    if _ZEROS not in data:
        return False
    segments = list(jpeg_segments(data))
    if not any(marker in _BASELINE for marker, _, _ in segments):
        return False
    tables = [data[start:end] for marker, start, end in segments if marker == _HUFFMAN_TABLES]
    if any(symbol == _END_OF_BLOCK for table in tables for symbol in _ac_symbols_of_zeros(table)):
        return False
    scans = [(start, end) for marker, start, end in segments if marker == _SCAN]
    return any(data.find(_ZEROS, start, end) >= 0 for start, end in scans)


def _ac_symbols_of_zeros(tables: bytes) -> Iterator[int]:
    """What a code of zeros means in each table of the changes within a block."""
    at = 0
    while at + 17 < len(tables):
        if tables[at] >= 0x10:
            yield tables[at + 17]
        at += 17 + sum(tables[at + 1 : at + 17])
