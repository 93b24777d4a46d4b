"""How cost grows: matching and whole pictures over their size, preprocessing over its pictures.

Each line is the median of the rounds; the exponent is fitted over all but the smallest size, where
what does not grow still counts. Matching is of random features with every cell searched for, whole
pictures are of the `demo` network with its masks as they begin. `--megapixels` is the largest
picture, `--matching-megapixels` the largest that is matched densely: its cost is quadratic.
"""

import json
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import inference
import matching
import numpy as np
import preprocess
import torch
from _network import network
from _timing import Prepare, Worker, arguments

from sddusr.config.arguments import parse_args
from sddusr.inference import super_resolve
from sddusr.model.matching.nearest_key import CERTAIN
from sddusr.model.precision import native_precision

SIZES_MP = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.3, 12.2)
"""Of LR; each has about twice the pixels of the one before."""

NUM_FULL, NUM_QUICK = (4, 8, 16, 32), (2, 4)
"""Pictures that become shards."""
ASPECT = 4 / 3


@dataclass(frozen=True)
class Cost:
    """What one size took."""

    name: str
    size: float
    """Megapixels of LR, or pictures."""
    seconds: float
    peak_mb: float
    """Over the inputs."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--megapixels", type=float, default=3.2)
    parser.add_argument("--matching-megapixels", type=float, default=1.6)
    given = parse_args(parser)
    if given.quick:
        given.megapixels = given.matching_megapixels = 0.2
    costs = [
        *grow("matching", sizes(given.matching_megapixels), dense_match, given, expected=2),
        *grow("whole picture", sizes(given.megapixels), whole_picture, given, expected=1),
    ]
    with tempfile.TemporaryDirectory() as folder:
        numbers = NUM_QUICK if given.quick else NUM_FULL
        shards = partial(pictures_to_shards, folder)
        costs += grow("preprocessing", numbers, shards, given, expected=1)
    if given.json:
        given.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=1) + "\n")


def sizes(largest_mp: float) -> list[float]:
    return [size for size in SIZES_MP if size <= largest_mp]


def grow(
    name: str,
    at: Sequence[float],
    work_of: Callable[[float], Prepare],
    given: Namespace,
    expected: float,
) -> list[Cost]:
    """Measure a work at each size and print what came out."""
    costs = []
    for size in at:
        with Worker(work_of(size), given.threads) as worker:
            runs = [worker.run() for _ in range(given.rounds)]
        peak = max(run.peak_mb for run in runs)
        costs.append(Cost(name, size, median(run.seconds for run in runs), peak))
        print(f"{name} {size:g}: {costs[-1].seconds:.3f} s, {peak:.0f} MB", flush=True)
    time, memory = (exponent(costs, of) for of in ("seconds", "peak_mb"))
    print(f"{name}: time grows with the power {time:.2f}, memory {memory:.2f}; expected {expected}")
    return costs


def exponent(costs: Sequence[Cost], of: str) -> float:
    """Slope of a straight line through the logarithms."""
    grown = costs[1:] if len(costs) > 2 else costs
    points = np.log([[cost.size, getattr(cost, of)] for cost in grown])
    return float(np.polyfit(points[:, 0], points[:, 1], 1)[0])


def sides(megapixels: float) -> tuple[int, int]:
    """Height and width of LR, multiples of 8, so that a quarter of each is a whole cell."""
    height = round((megapixels * 1e6 / ASPECT) ** 0.5 / 8) * 8
    return height, round(height * ASPECT / 8) * 8


def dense_match(megapixels: float) -> Prepare:
    return partial(matching.ours, sides(megapixels), CERTAIN)


def whole_picture(megapixels: float) -> Prepare:
    return partial(_whole_picture, sides(megapixels))


def _whole_picture(size: tuple[int, int]) -> Callable[[], Any]:
    precision = native_precision(torch.device("cpu"))
    return partial(super_resolve, network("demo").eval(), *inference.pictures(size), precision)


def pictures_to_shards(folder: str, num: float) -> Prepare:
    root = preprocess.make_pictures(Path(folder, f"{num:g}"), int(num))
    return partial(preprocess.in_one_process, root, Path(folder))


if __name__ == "__main__":
    main()
