"""Records on their way to a server that may be away: on disk first; courier.py delivers them.

records.jsonl    one record a line, only ever appended to, by one process or several
files/           copies of what may vanish, until they are delivered
delivered.json   how many bytes of records.jsonl were delivered, and what the receiver must remember
refused.jsonl    records that the receiver would never take, with its reason
lock             held by the one process that delivers

A record is on disk (in the page cache: a killed process loses none) when `append` returns; the
courier syncs it within a second, so that a power cut takes no more than that.
"""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from sddusr import storage

RECORDS, DELIVERED, REFUSED, LOCK, FILES = (
    "records.jsonl",
    "delivered.json",
    "refused.jsonl",
    "lock",
    "files",
)
MAX_READ_BYTES = 2**20
"""What is read at once of a long backlog."""

Record = dict[str, Any]


class Entry(NamedTuple):
    """A record and the offset behind its line; None where the line is torn."""

    record: Record | None
    end: int


class Mark(NamedTuple):
    """How far a spool was delivered, and what its receiver remembers."""

    offset: int
    state: dict[str, Any]


class Spool:
    """The folder; any number of processes may append, see the module's text."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        self._synced = 0

    def append(self, record: Record) -> int:
        """Add a record; the offset behind it.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        line = self.line(record)
        with self._locked(RECORDS) as file:
            end = file.seek(0, os.SEEK_END)
            if end and not _ends_with_newline(file, end):
                line = b"\n" + line  # a process was killed within its line
            file.write(line)
            return file.tell()

    def keep(self, name: str, write: Callable[[Path], object]) -> str:
        """Keep a file that `write` fills at the path it is given; what a record calls it."""
        member = f"{uuid.uuid4().hex}/{name}"
        path = self.folder / FILES / member
        path.parent.mkdir(parents=True)
        write(path)
        return member

    def kept(self, member: str) -> Path:
        return Path(storage.member(self.folder / FILES, member))

    def drop(self, record: Record) -> None:
        """Delete what was kept for a record, if anything was."""
        if "file" in record:
            shutil.rmtree(self.kept(record["file"]).parent, ignore_errors=True)

    def read(self, offset: int) -> list[Entry]:
        """Whole lines from `offset` on, at most about `MAX_READ_BYTES`."""
        try:
            with open(self.folder / RECORDS, "rb") as file:
                file.seek(offset)
                content = file.read(MAX_READ_BYTES)
                if b"\n" not in content:
                    content += file.readline()
        except FileNotFoundError:
            return []
        entries = []
        for line in content.splitlines(keepends=True):
            if line.endswith(b"\n"):
                offset += len(line)
                entries.append(Entry(self.parsed(line), offset))
        return entries

    def waiting(self) -> Iterator[Entry]:
        """What is not delivered yet."""
        offset = self.mark().offset
        while entries := self.read(offset):
            yield from entries
            offset = entries[-1].end

    def num_waiting(self) -> int:
        return sum(1 for _ in self.waiting())

    def end(self) -> int:
        """The offset behind all whole lines."""
        return max((entry.end for entry in self.waiting()), default=self.mark().offset)

    @staticmethod
    def line(record: Record) -> bytes:
        return json.dumps(record).encode() + b"\n"

    @staticmethod
    def parsed(line: bytes) -> Record | None:
        """None where the line is torn."""
        try:
            return json.loads(line)
        except ValueError:
            return None

    def mark(self) -> Mark:
        place = self.folder / DELIVERED
        if not place.exists():
            return Mark(0, {})
        return Mark(**storage.read_json(place))

    def set_mark(self, mark: Mark) -> None:
        storage.write_atomic(self.folder / DELIVERED, json.dumps(mark._asdict()).encode())

    def set_aside(self, record: Record, reason: str) -> None:
        with self._locked(REFUSED) as file:
            file.seek(0, os.SEEK_END)
            file.write(json.dumps({"reason": reason, "record": record}).encode() + b"\n")

    def retry_refused(self) -> None:
        """Let the records that were set aside wait once more."""
        with self._locked(REFUSED) as file:
            for line in file.read().splitlines():
                self.append(json.loads(line)["record"])
            file.truncate(0)

    def sync(self) -> None:
        """Make what was appended survive a power cut."""
        path = self.folder / RECORDS
        size = path.stat().st_size if path.exists() else 0
        if size > self._synced:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            self._synced = size

    def open_lock(self) -> IO[bytes]:
        """The file that the process which delivers holds a lock on."""
        return self._open(LOCK)

    def _open(self, name: str) -> IO[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        return open(os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o600), "r+b")

    @contextmanager
    def _locked(self, name: str) -> Iterator[IO[bytes]]:
        with self._open(name) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()  # before the lock goes


def _ends_with_newline(file: IO[bytes], end: int) -> bool:
    file.seek(end - 1)
    return file.read(1) == b"\n"
