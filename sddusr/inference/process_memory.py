"""Memory of this process and machine, in bytes."""

import sys
from pathlib import Path

import psutil


class NotEnoughMemoryError(ValueError):
    """A picture needs more memory than its process may take."""


def held_bytes() -> int:
    """What this process holds now."""
    return psutil.Process().memory_info().rss


def peak_bytes() -> int:
    """Most that this process held so far."""
    try:
        # Unlike getrusage, this does not begin at what the parent process held.
        line = next(row for row in Path("/proc/self/status").read_text().splitlines()
                    if row.startswith("VmHWM:"))  # fmt: skip
    except (OSError, StopIteration):
        if sys.platform == "win32":
            return psutil.Process().memory_info().peak_wset
        import resource  # which Windows does not have

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    return 1024 * int(line.split()[1])


def free_bytes() -> int:
    """What could still be taken, within the limit of the container where there is one."""
    free = psutil.virtual_memory().available
    try:
        limit, used = (_cgroup(name).strip() for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in _cgroup("memory.stat").splitlines())
    except OSError:
        return free
    if not limit.isdigit():
        return free
    cache = int(stat.get("inactive_file", 0))  # given back when it is asked for
    return max(0, min(free, int(limit) - int(used) + cache))


def _cgroup(name: str) -> str:
    """A file about this container."""
    return Path("/sys/fs/cgroup", name).read_text()
