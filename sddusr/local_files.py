"""Local files: written whole or not at all, and what killed processes left is swept."""

import errno
import functools
import hashlib
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

_TEMPORARY_SUFFIX = ".tmp"
_TEMPORARY_NAME = re.compile(r"\.[0-9a-f]{16}-(?P<machine>[0-9a-f]{8})-(?P<pid>\d{1,10})\.tmp")
_FOREIGN_TEMPORARY_S = 86_400.0
_CANNOT_SYNC_FOLDERS = frozenset(
    {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES}
    | {errno.EPERM, errno.ENOTTY, errno.EISDIR}
)

Content = bytes | Callable[[IO[bytes]], None]
"""What to write: the bytes, or a function that writes them into an open file."""


def is_temporary(name: str) -> bool:
    """Whether a file's name is one that `write_atomic` writes under."""
    return name.startswith(".") and name.endswith(_TEMPORARY_SUFFIX)


def remove_temporaries(folder: str | Path) -> None:
    """Sweep what a killed `write_atomic` left in a folder that nobody writes to now."""
    for entry in _files(folder):
        if is_temporary(entry.name):
            with suppress(FileNotFoundError):  # renamed or swept by its writer meanwhile
                os.unlink(entry.path)


def remove_orphaned_temporaries(folder: str | Path) -> None:
    """Sweep what killed processes left in a folder that others may be writing to.

    A process of this machine that is gone writes no more; of other machines, what is a day old.
    """
    for entry in _files(folder):
        written_by = _TEMPORARY_NAME.fullmatch(entry.name)
        if written_by is None:
            continue
        with suppress(FileNotFoundError):
            if written_by["machine"] == _machine_hash():
                is_over = not _is_alive(int(written_by["pid"]))
            else:
                is_over = time.time() - entry.stat().st_mtime > _FOREIGN_TEMPORARY_S
            if is_over:
                os.unlink(entry.path)


def _files(folder: str | Path) -> list["os.DirEntry[str]"]:
    """Files right below a local folder; none of one that is not there, or of an object store."""
    if "://" in str(folder) or not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        return [entry for entry in entries if entry.is_file()]


def temporary_name() -> str:
    """A short name, whatever the file's own: a file system that takes 255 bytes takes both."""
    return f".{uuid.uuid4().hex[:16]}-{_machine_hash()}-{os.getpid()}{_TEMPORARY_SUFFIX}"


def machine() -> str:
    """Names the machine or container whose process ids are its own."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = 0
    return f"{socket.gethostname()}-{uuid.getnode():x}-{namespace}"


@functools.cache
def _machine_hash() -> str:
    return hashlib.sha256(machine().encode()).hexdigest()[:8]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_local(path: Path, content: Content, mode: int) -> None:
    """`storage.write_atomic` of a local file with these permissions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(temporary_name())
    needed = len(content) if isinstance(content, bytes) else 0
    try:
        with open(temporary, "xb", opener=functools.partial(os.open, mode=mode)) as file:
            try:
                fill(file, content)
                file.flush()
                os.fsync(file.fileno())
            finally:
                needed = max(needed, os.fstat(file.fileno()).st_size)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        free = shutil.disk_usage(path.parent).free
        raise OSError(
            error.errno,
            f"{path}: no space to write it, needed {needed} bytes or more, {free} are free now; "
            "free some or write elsewhere",
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def fill(file: IO[bytes], content: Content) -> None:
    """Write the content into an open file."""
    if isinstance(content, bytes):
        file.write(content)
    else:
        content(file)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the file system can: SMB, VirtualBox and some FUSE
    folders cannot, and the file is written all the same."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDERS:
            raise
