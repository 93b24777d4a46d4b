"""Says which rank the others wait for, before a collective operation times out."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol, runtime_checkable

import torch.distributed as dist

log = logging.getLogger(__name__)

BEAT_S = 10.0
"""Seconds between two notes to the other ranks."""

STALLED_S = 120.0
"""Seconds without a new note after which a rank asks what the others do."""


@runtime_checkable
class Store(Protocol):
    """What is used of `torch.distributed.Store`."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def check(self, keys: list[str]) -> bool: ...


class Note(NamedTuple):
    """What a rank was doing when it last wrote."""

    step: int
    work: str
    host: str
    since_s: float
    """How long it had been doing that."""

    def pack(self) -> str:
        return "\n".join(map(str, self))

    @classmethod
    def unpack(cls, text: str) -> "Note":
        step, work, host, since_s = text.split("\n")
        return cls(int(step), work, host, float(since_s))


class StallWatch:
    """Tells the other ranks what this one does, and says in the log what they do if it stalls.

    A rank that waits for another in a collective operation is at its `step`, as all are; the one
    that it waits for is at an earlier step, still reads data, or validates.
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self._store, self._rank, self._world_size = store, rank, world_size
        self._step, self._work, self._since_s = 0, "start", time.monotonic()
        self._has_said = False

    def note(self, step: int, work: str) -> None:
        """What begins now; cheap."""
        self._step, self._work, self._since_s = step, work, time.monotonic()
        self._has_said = False

    def beat(self) -> None:
        """Write this rank's note; where it has stalled, say what all do, once."""
        since_s = time.monotonic() - self._since_s
        own = Note(self._step, self._work, socket.gethostname(), since_s)
        self._store.set(_key(self._rank), own.pack())
        if since_s >= STALLED_S and self._work == "step" and not self._has_said:
            self._has_said = True
            log.warning("rank %d waits since %.0f s: %s", self._rank, since_s, self.describe())

    def describe(self) -> str:
        """What every rank does, the one that is furthest behind first."""
        notes = []
        for rank in range(self._world_size):
            if self._store.check([_key(rank)]):
                notes.append((rank, Note.unpack(self._store.get(_key(rank)).decode())))
        notes.sort(key=lambda each: (each[1].step, each[1].work == "step", each[0]))
        return "; ".join(
            f"rank {rank} on {note.host} is at step {note.step} ({note.work}, {note.since_s:.0f} s)"
            for rank, note in notes
        )


def _key(rank: int) -> str:
    return f"sddusr-rank-{rank}"


@contextmanager
def stall_watch() -> Iterator[StallWatch | None]:
    """A watch whose thread beats until the end; None where there is one rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield None
        return
    store = dist.distributed_c10d._get_default_store()
    watch = StallWatch(store, dist.get_rank(), dist.get_world_size())
    is_over = threading.Event()

    def beat_until_over() -> None:
        while not is_over.wait(BEAT_S):
            try:
                watch.beat()
            except (RuntimeError, dist.DistStoreError) as error:
                log.warning("no notes to the other ranks any more (%.200s)", error)
                return

    thread = threading.Thread(target=beat_until_over, name="stall-watch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        is_over.set()
        thread.join()
