"""The thread that carries a spool's records to their receiver, and waits where that is away."""

import fcntl
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, Any, Protocol

from pipelines.tracking.spool import RECORDS, Entry, Mark, Record, Spool
from pipelines.tracking.spool_backup import Backup

POLL_S, SYNC_S = 0.5, 1.0
FIRST_WAIT_S, LONGEST_WAIT_S, HURRIED_WAIT_S = 1.0, 60.0, 2.0
"""Between two attempts: doubled each time; never long once somebody waits for the end."""

log = logging.getLogger(__name__)


class AwayError(Exception):
    """The receiver cannot be reached, or not now; the same record later may go through."""


class RefusedError(Exception):
    """The receiver will never take this record."""


class Receiver(Protocol):
    """Where records go to."""

    def take(self, records: Sequence[Record]) -> int:
        """Deliver the first of `records`, or the first few at once; how many. Taking again what
        was taken before changes nothing.

        Raises:
            AwayError: none was delivered for certain.
            RefusedError: the first one can never be.
        """
        ...

    def state(self) -> dict[str, Any]:
        """What to remember beside the mark, as JSON values."""
        ...


class Courier:
    """The thread that delivers a spool; of several processes' on one spool, one is at work.

    Args:
        name: the receiver's, for the log.
        to_receiver: makes the receiver, from what it remembered, in the thread.
        backup: keeps what waits somewhere else too.
    """

    def __init__(
        self,
        spool: Spool,
        name: str,
        to_receiver: Callable[[dict[str, Any]], Receiver],
        backup: Backup | None = None,
    ) -> None:
        self.spool, self.name, self.backup = spool, name, backup
        self.trouble: Exception | None = None
        """Why the last attempt failed; None after one that did not."""
        self._to_receiver = to_receiver
        self._wake, self._stop, self._hurry = (threading.Event() for _ in range(3))
        self._wait_s = FIRST_WAIT_S
        self._lock_file = spool.open_lock()
        self.is_at_work = _lock(self._lock_file)
        """Whether this process is the one that delivers."""
        self._thread = threading.Thread(target=self._run, daemon=True, name="tracking")
        self._thread.start()

    def wait_until(self, offset: int, timeout_s: float, *, through_trouble: bool = True) -> bool:
        """Wait until everything before `offset` is delivered, whoever does it; whether it is."""
        deadline = time.monotonic() + timeout_s
        self._hurry.set()
        self._wake.set()
        while not (delivered := self.spool.mark().offset >= offset):
            if time.monotonic() > deadline or (self.trouble and not through_trouble):
                break
            time.sleep(0.02)
        self._hurry.clear()
        return delivered

    def stop(self) -> None:
        """End the thread; what is left stays in the spool."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=POLL_S)

    def _run(self) -> None:
        try:
            while not self.is_at_work:
                if self._stop.is_set():
                    return
                self._pause(POLL_S)
                self.is_at_work = _lock(self._lock_file)
            while not self._is_done():
                self._stop.wait(LONGEST_WAIT_S)
        finally:
            self._lock_file.close()
            self.is_at_work = False

    def _is_done(self) -> bool:
        """Work until told to stop; False where that was not to be, as with a full disk."""
        try:
            self._work()
        except Exception as error:  # whatever happens here, training goes on
            self.trouble = error
            log.exception("records for %s wait in %s", self.name, self.spool.folder)
        return self._stop.is_set()

    def _work(self) -> None:
        mark = self.spool.mark()
        receiver = self._to_receiver(mark.state)
        while True:
            entries = self.spool.read(mark.offset)
            if not entries:
                if self.backup is not None:
                    self.backup.discard()
                if self._stop.is_set():
                    return
                self._pause(POLL_S)
                continue
            num, delivered = self._deliver(receiver, entries)
            if num:
                mark = Mark(entries[num - 1].end, receiver.state())
                self.spool.set_mark(mark)
            for record in delivered:
                self.spool.drop(record)
            if self._stop.is_set():
                return

    def _deliver(self, receiver: Receiver, entries: Sequence[Entry]) -> tuple[int, list[Record]]:
        """Hand over the first few; how many are done with, and those that arrived."""
        first = entries[0].record
        if first is None:
            log.warning("%s: half a line, left by a killed process", self.spool.folder / RECORDS)
            return 1, []
        whole = []
        for entry in entries:
            if entry.record is None:
                break
            whole.append(entry.record)
        try:
            num = receiver.take(whole)
        except RefusedError as error:
            log.warning("%s refuses a record (%s): %.300s", self.name, first.get("kind"), error)
            self.spool.set_aside(first, str(error))
            return 1, []
        except AwayError as error:
            self._tell_trouble(error)
            if self.backup is not None:
                self.backup.save()
            self._pause(min(self._wait_s, HURRIED_WAIT_S) if self._hurry.is_set() else self._wait_s)
            self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
            return 0, []
        if self.trouble is not None:
            log.info("%s is back; what waited is delivered", self.name)
        self.trouble, self._wait_s = None, FIRST_WAIT_S
        return num, whole[:num]

    def _tell_trouble(self, error: Exception) -> None:
        if self.trouble is None:
            where = self.spool.folder
            log.warning("%s is away (%.200s); records wait in %s", self.name, error, where)
        self.trouble = error

    def _pause(self, seconds: float) -> None:
        """Wait, syncing what comes in; less where somebody starts to wait or to stop."""
        deadline = time.monotonic() + seconds
        hurried = self._hurry.is_set()
        while (left_s := deadline - time.monotonic()) > 0 and not self._stop.is_set():
            self.spool.sync()
            if self._wake.wait(min(SYNC_S, left_s)):
                self._wake.clear()
                if seconds <= POLL_S or self._hurry.is_set() != hurried:
                    return


def _lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
