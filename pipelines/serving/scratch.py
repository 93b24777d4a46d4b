"""A folder for uploads and results that is gone when its process is, however that ends."""

import fcntl
import shutil
import tempfile
from pathlib import Path

PREFIX = "sddusr-serve-"
LOCK = "lock"


class Scratch:
    """A folder that this process holds as long as it lives; those of dead processes are removed."""

    def __init__(self, top: Path | None = None) -> None:
        self.top = Path(tempfile.gettempdir()) if top is None else top
        remove_orphans(self.top)
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self.top))
        self._lock = (self.folder / LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def remove_orphans(top: Path | None = None) -> None:
    """Remove the folders of processes that were killed: nobody holds their lock."""
    for folder in Path(tempfile.gettempdir() if top is None else top).glob(f"{PREFIX}*"):
        try:
            with (folder / LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # somebody holds it, is about to, or it is another user's
