"""A copy of what a machine's spool could not deliver, in the run's bucket: machines come and go."""

import logging
import socket
from pathlib import Path

from pipelines.tracking.spool import FILES, RECORDS, Spool
from sddusr import storage

TRACKING = "tracking"
"""The folder of the backups in a run's folder, one folder for each spool."""

log = logging.getLogger(__name__)


class Backup:
    """The copy of one spool in the run's folder, a URI."""

    def __init__(self, spool: Spool, folder: str) -> None:
        self.spool = spool
        self.place = storage.join(folder, TRACKING, f"{socket.gethostname()}-{spool.folder.name}")
        self._size = 0
        self._kept: set[str] = set()

    def has(self, place: str) -> bool:
        return self._size > 0 and place == self.place

    def save(self) -> None:
        """Copy the records that wait; what cannot be copied is tried again the next time."""
        waiting = [entry.record for entry in self.spool.waiting() if entry.record is not None]
        content = b"".join(self.spool.line(record) for record in waiting)
        if len(content) == self._size:
            return
        try:
            for member in {record["file"] for record in waiting if "file" in record} - self._kept:
                picture = self.spool.kept(member).read_bytes()
                storage.write_atomic(storage.join(self.place, FILES, member), picture)
                self._kept.add(member)
            storage.write_atomic(storage.join(self.place, RECORDS), content)
            self._size = len(content)
        except OSError as error:
            log.warning("%s cannot be written: %.200s", self.place, error)

    def discard(self) -> None:
        """Delete the copy: all of it is delivered."""
        if self._size:
            self._size, self._kept = 0, set()
            try:
                _remove(self.place)
            except OSError as error:
                log.warning("%s cannot be deleted: %.200s", self.place, error)


def restore(spool: Spool, folder: str, own: Backup | None = None) -> None:
    """Move into a spool what others left in the run's folder: what creates the run, then the rest.

    Args:
        own: this process's backup, whose records are in the spool already.

    Raises:
        OSError, ValueError: a backup cannot be read; it stays.
    """
    root = storage.join(folder, TRACKING)
    if storage.is_local(folder) or not storage.exists(root):
        return
    found = [
        (place, record)
        for place in storage.list_folders(root).values()
        if storage.exists(storage.join(place, RECORDS)) and not (own and own.has(place))
        for record in map(
            spool.parsed, storage.read_bytes(storage.join(place, RECORDS)).splitlines()
        )
        if record is not None and record.get("create", True) is not None
    ]
    for place, record in sorted(found, key=lambda one: one[1]["kind"] != "open"):
        if "file" in record:
            content = storage.read_bytes(storage.join(place, FILES, *_parts(record["file"])))
            name = record["file"].rpartition("/")[2]
            record["file"] = spool.keep(name, lambda path, held=content: path.write_bytes(held))
        spool.append(record)
    spool.sync()
    for place in dict.fromkeys(place for place, _ in found):
        _remove(place)


def _parts(member: str) -> tuple[str, ...]:
    """Of a name that a record gives, which must stay below the backup."""
    parts = Path(member).parts
    if any(part in ("..", "/") for part in parts):
        raise ValueError(f"refused {member!r}, need a plain name inside the backup")
    return parts


def _remove(place: str) -> None:
    """The records first: without them the rest counts for nothing."""
    storage.remove(storage.join(place, RECORDS))
    if storage.exists(place):
        storage.remove_folder(place)
