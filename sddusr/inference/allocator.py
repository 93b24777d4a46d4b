"""glibc's allocator told to keep what is freed, while a picture is made.

A layer's result of tens of megabytes is otherwise mapped anew and handed back each time, and the
system clears every page of it: a quarter of the time of a picture (docs/speed.md).
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""`mallopt`'s parameters: how much is free before it is handed back, from which size a block is
mapped by itself, and how many may be."""

KEEP = {TRIM_THRESHOLD: 2**31 - 1, MMAP_MAX: 0}
DEFAULT = {TRIM_THRESHOLD: 2**26, MMAP_THRESHOLD: 2**25, MMAP_MAX: 2**16}
"""What glibc comes to by itself once large blocks were freed. It adapts no more when it was told,
and with what it starts from, a training's steps after a validation would map every map anew."""


_is_keeping = False
"""Within the outermost of those below, whose end hands back."""


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Within, memory that is freed stays with the process; at the end all of it is handed back.

    It counts for the whole process, and is of use in its main thread. With another C library than
    glibc it changes nothing.
    """
    global _is_keeping
    glibc = ctypes.CDLL(None)
    if _is_keeping or not hasattr(glibc, "mallopt"):
        yield
        return
    for name, value in KEEP.items():
        glibc.mallopt(name, value)
    _is_keeping = True
    try:
        yield
    finally:
        _is_keeping = False
        for name, value in DEFAULT.items():
            glibc.mallopt(name, value)
        hand_back_freed_memory()


def hand_back_freed_memory() -> None:
    """Give the system what was freed, between stages whose blocks are of other sizes."""
    glibc = ctypes.CDLL(None)
    if hasattr(glibc, "malloc_trim"):
        glibc.malloc_trim(0)
