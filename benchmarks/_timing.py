"""Two ways of one thing, timed in turn in one process, and their ratio."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any


def compare(
    name: str, ours: Callable[[], Any], reference: Callable[[], Any], num_rounds: int = 5
) -> None:
    """Print the median time of each, and the median and range of reference / ours.

    The two alternate, so that a drift of the machine's speed hits both.
    """
    ours(), reference()
    pairs = [(_seconds(ours), _seconds(reference)) for _ in range(num_rounds)]
    ratios = sorted(theirs / mine for mine, theirs in pairs)
    print(
        f"{name:<28} ours {median(p[0] for p in pairs):8.3f} s   reference "
        f"{median(p[1] for p in pairs):8.3f} s   {median(ratios):6.2f} times faster "
        f"[{ratios[0]:.2f}, {ratios[-1]:.2f}]"
    )


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
