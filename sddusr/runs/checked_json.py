"""JSON files with a checksum, so that damage is found and never read as another value."""

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from sddusr import storage
from sddusr.secrets import has_credentials

CHECKSUM = "crc32"

Row = dict[str, Any]


class DamagedError(ValueError):
    """A file whose content does not match its checksum, or that is no JSON."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(f"{place}: damaged ({why}); restore it from a copy, or delete it")
        self.place = place


def write_object(place: str, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically; one with credentials in it is its owner's alone.

    Raises:
        OSError: the disk is full, or the place cannot be written.
    """
    checked = {**content, CHECKSUM: _checksum(_canonical(content))}
    text = json.dumps(checked, indent=1)
    storage.write_atomic(place, text.encode() + b"\n", private=has_credentials(text))


def read_object(place: str) -> dict[str, Any]:
    """Read what `write_object` wrote.

    Raises:
        FileNotFoundError: no such file.
        DamagedError: its content is not what was written.
    """
    content = _parsed(place, storage.read_bytes(place))
    if content.pop(CHECKSUM, None) != _checksum(_canonical(content)):
        raise DamagedError(place, "its checksum does not match")
    return content


def write_rows(place: str, rows: Sequence[Row]) -> None:
    """Write JSON lines atomically; the last line holds their number and checksum.

    Raises:
        OSError: the disk is full, or the place cannot be written.
    """
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    last = {"rows": len(rows), CHECKSUM: _checksum(lines)}
    storage.write_atomic(place, lines + json.dumps(last).encode() + b"\n")


def read_rows(place: str) -> list[Row]:
    """Read what `write_rows` wrote.

    Raises:
        FileNotFoundError: no such file.
        DamagedError: its content is not what was written.
    """
    *lines, last = storage.read_bytes(place).splitlines(keepends=True) or [b""]
    footer = _parsed(place, last)
    expected = {"rows": len(lines), CHECKSUM: _checksum(b"".join(lines))}
    if footer != expected:
        raise DamagedError(place, "its checksum does not match")
    return [_parsed(place, line) for line in lines]


def _parsed(place: str, text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(place, f"not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise DamagedError(place, "no JSON object")
    return content


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _checksum(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}"
