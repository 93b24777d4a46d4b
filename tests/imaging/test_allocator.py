import platform
import subprocess
import sys

import pytest

MEASURE = """
import resource, psutil, torch
from contextlib import nullcontext
import sddusr.inference.upscale  # its heap is as where a picture is made
from sddusr.imaging.allocator import keeping_freed_memory

def faults(context, megabytes=64):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    with context:
        for _ in range(10):
            torch.ones(megabytes << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults(nullcontext())
held = psutil.Process().memory_info().rss
kept = faults(keeping_freed_memory())
grown = psutil.Process().memory_info().rss - held
after = faults(nullcontext(), 16)
with keeping_freed_memory():
    faults(keeping_freed_memory())
    nested = faults(nullcontext())
print(plain, kept, grown, after, nested)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_memory_is_mapped_once_within_and_handed_back_after():
    """In a process of its own, whose main thread it is."""
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, check=True)
    plain, kept, grown, after, nested = map(int, done.stdout.split())
    assert kept < plain / 3
    assert grown < 16 << 20
    assert after < plain / 4 / 3  # of blocks a quarter as large, most are used again
    assert nested < plain / 50  # the inner one's end returned nothing
