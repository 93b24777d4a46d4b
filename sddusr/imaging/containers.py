"""The parts of PNG and JPEG files, by their marks; nothing is decoded."""

import re
import zlib
from collections.abc import Iterator

_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_SCAN, _END = b"\xff\xda", b"\xff\xd9"


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Name, content and checksum of each chunk up to the last; a cut chunk is the end."""
    start, name = 8, b""
    while name != b"IEND" and start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        name, end = data[start + 4 : start + 8], start + 8 + length
        yield name, data[start + 8 : end], data[end : end + 4]
        start = end + 4


def check_png(data: bytes) -> None:
    """Refuse a PNG that was cut or changed: no decoder looks at all of its checksums.

    Raises:
        ValueError: a checksum does not fit, or the end is not there.
    """
    name = b""
    for name, content, checksum in png_chunks(data):
        if zlib.crc32(content, zlib.crc32(name)).to_bytes(4, "big") != checksum:
            raise ValueError("a checksum does not fit")
    if name != b"IEND":
        raise ValueError("it has no end")


def is_avif(data: bytes) -> bool:
    """Whether a file is an AVIF picture."""
    return data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis")


def nclx_codes(data: bytes) -> tuple[int, int] | None:
    """Primaries and transfer of an AVIF file's first colour box; None without one."""
    at = data.find(b"colrnclx")
    if at < 0 or at + 12 > len(data):
        return None
    return int.from_bytes(data[at + 8 : at + 10], "big"), int.from_bytes(
        data[at + 10 : at + 12], "big"
    )


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker and bytes (start, end) of each segment up to the end; of a scan, its coded pixels."""
    at = 2
    while (marker := _JPEG_MARKER.search(data, at)) and marker[0] != _END:
        start = marker.end()
        at = start + max(2, int.from_bytes(data[start : start + 2], "big"))
        if marker[0] != _SCAN:
            yield marker[0][1], start + 2, at
            continue
        following = _JPEG_MARKER.search(data, at)
        yield marker[0][1], at, following.start() if following else len(data)


def num_jpeg_scans(data: bytes) -> int:
    """How many scans of its pixels a JPEG holds, by its markers."""
    return sum(marker == _SCAN[1] for marker, _, _ in jpeg_segments(data))
