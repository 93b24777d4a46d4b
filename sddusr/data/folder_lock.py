"""One writer to a folder: a lock file, on local disks, NFS and object stores.

A lock that a dead process left is told from a live one: on the same machine by its process, of
another machine by its heartbeat, which a living process renews. No clocks are compared.
"""

import hashlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from sddusr import local_files, storage

HEARTBEAT_S = 15.0
DEAD_S = 60.0
"""A lock of another machine that is not renewed for so long is taken over."""
SETTLE_S = 1.0
"""After writing to an object store, which cannot refuse a second writer: whoever wrote last has the
lock, and all see that after this time."""

log = logging.getLogger(__name__)


class LockedError(ValueError):
    """Another process writes there."""


@contextmanager
def hold_lock(place: str, what: str) -> Iterator[None]:
    """Hold the lock file at `place` meanwhile.

    Args:
        what: is written there, for the message, such as "run paper-1a2b3c4d".

    Raises:
        LockedError: another process holds it and is alive.
        OSError: it cannot be written.
    """
    token, made = uuid.uuid4().hex, _missing_folders(place)
    _acquire(place, what, token)
    stop = threading.Event()
    beats = threading.Thread(target=_beat, args=(place, token, stop), daemon=True)
    beats.start()
    try:
        yield
    finally:
        stop.set()
        beats.join()
        _release(place, token)
        for folder in made:  # of a writer that wrote nothing
            with suppress(OSError):
                folder.rmdir()


def _missing_folders(place: str) -> list[Path]:
    """Folders that have to be made for a local file, the innermost first."""
    if not storage.is_local(place):
        return []
    return [folder for folder in Path(place).parents if not folder.exists()]


def _acquire(place: str, what: str, token: str) -> None:
    while not _create(place, token):
        holder = _read(place)
        if holder is None:
            continue  # released meanwhile
        if holder.get("token") == token:
            return  # ours, though it could not be read while another process wrote too
        if _is_alive(place, holder):
            raise LockedError(
                f"{what}: another process is writing there (process {holder.get('pid')} on "
                f"{holder.get('host')}); wait until it ends, or write elsewhere"
            )
        log.warning("%s: taking over from a process that is gone (%s)", what, holder.get("host"))
        if storage.is_local(place):
            if _take_over(place, holder, token):
                return
        else:
            storage.write_atomic(place, _content(token, 0))
            time.sleep(SETTLE_S)
            if (_read(place) or {}).get("token") == token:
                return


def _create(place: str, token: str) -> bool:
    """Write the lock file unless there is one."""
    if not storage.is_local(place):
        if storage.exists(place):
            return False
        storage.write_atomic(place, _content(token, 0))
        time.sleep(SETTLE_S)
        return (_read(place) or {}).get("token") == token
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(local_files.temporary_name())
    draft.write_bytes(_content(token, 0))
    try:
        os.link(draft, path)  # exclusive, on NFS too, and never seen half-written
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        return _create_in_steps(path, token)
    finally:
        draft.unlink(missing_ok=True)  # the holder may have swept the folder
    return True


def _create_in_steps(path: Path, token: str) -> bool:
    try:
        with open(path, "xb") as file:
            file.write(_content(token, 0))
    except FileExistsError:
        return False
    return True


def _content(token: str, beat: int) -> bytes:
    holder = {
        "token": token,
        "beat": beat,
        "machine": local_files.machine(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
    }
    return json.dumps(holder).encode()


def _read(place: str) -> dict[str, Any] | None:
    """The holder; None where there is no lock. One that cannot be read has no known holder."""
    try:
        holder = json.loads(storage.read_bytes(place))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        holder = None
    return holder if isinstance(holder, dict) else {"damaged": True}


def _is_alive(place: str, holder: dict[str, Any]) -> bool:
    if holder.get("machine") == local_files.machine():
        try:
            process = psutil.Process(holder.get("pid"))
            return abs(process.create_time() - holder.get("started", 0)) < 1.0
        except (psutil.Error, TypeError, ValueError):
            return False
    deadline = time.monotonic() + DEAD_S
    while time.monotonic() < deadline:
        time.sleep(min(1.0, DEAD_S / 10))
        now = _read(place)
        if now is None:
            return False
        if now != holder:
            return True
    return False


def _take_over(place: str, holder: dict[str, Any], token: str) -> bool:
    """Replace a dead lock by a new one; False if another process was faster.

    Only the process that holds a second lock, named after the dead lock's content, may do so. No
    other process can then replace a lock that is newer than the dead one.
    """
    content = json.dumps(holder, sort_keys=True).encode()
    right = f"{place}.{hashlib.sha256(content).hexdigest()[:12]}.tmp"
    try:
        _acquire(right, "taking over", token)
    except LockedError:
        time.sleep(0.01)
        return False
    try:
        if _read(place) != holder:
            return False
        storage.write_atomic(place, _content(token, 0))
        return True
    finally:
        _release(right, token)


def _beat(place: str, token: str, stop: threading.Event) -> None:
    """Renew the lock until told to stop, or until it is another process's."""
    beat = 0
    while not stop.wait(HEARTBEAT_S):
        beat += 1
        try:
            holder = _read(place)
            if holder is not None and holder.get("token") != token:
                log.error("%s: another process took the lock over", place)
                return
            storage.write_atomic(place, _content(token, beat))
        except (OSError, ValueError) as error:
            log.warning("%s cannot be renewed: %.200s", place, error)


def _release(place: str, token: str) -> None:
    try:
        if (_read(place) or {}).get("token") == token:
            storage.remove(place)
    except (OSError, ValueError) as error:
        log.warning("%s cannot be removed: %.200s", place, error)
