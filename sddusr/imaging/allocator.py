"""Settings of the allocator of glibc that keep freed memory while an image is made or read.

Otherwise each array of tens of megabytes gets a new mapping, and the system clears every page of
it: a quarter of the time of an image, a sixth of a pair's registration (docs/speed.md).
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""`mallopt`'s parameters: free bytes above which memory is returned, bytes from which a block gets
a mapping of its own, and the largest number of such blocks."""

KEEP = {TRIM_THRESHOLD: 2**31 - 1, MMAP_MAX: 0}
DEFAULT = {TRIM_THRESHOLD: 2**26, MMAP_THRESHOLD: 2**25, MMAP_MAX: 2**16}
"""The values that glibc reaches by itself once large blocks were freed. Setting a value ends this
adaptation, and with glibc's initial values each feature map of a later training step would get a
new mapping."""


_is_keeping = False
"""Whether memory is kept already; only the outermost context returns it."""


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
