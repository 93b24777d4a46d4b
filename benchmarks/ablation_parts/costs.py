"""What a trained network costs on one picture: time, memory, and its search with and without masks.

Each figure is measured in a process of its own; sparse and dense search take turns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from _timing import Worker

from sddusr.checkpoint import load_model
from sddusr.data.dataset import ShardSet
from sddusr.geometry.box import align_ref, crop, to_lr
from sddusr.imaging.arrays import padded_to_even
from sddusr.inference import super_resolve
from sddusr.inference.precompute import Inputs, search
from sddusr.model.precision import Precision
from sddusr.model.sddusr import SDDuSR
from sddusr.types import Triplet

ROUNDS = 3


@dataclass(frozen=True)
class Costs:
    """Of one network on one picture."""

    variant: str
    picture_s: float
    peak_mb: float
    """Over the network and the pictures."""
    search_s: float
    """Features of the pictures included."""
    dense_search_s: float
    """The same weights without masks."""


def measure_costs(
    variant: str,
    checkpoint: str,
    data: str,
    search_all_keys: bool,
    precision: Precision,
    num_threads: int,
) -> Costs:
    """Of the first test picture of `data`; median of three rounds, peak of them all."""
    given = partial(Given, checkpoint, data, search_all_keys, precision)
    works = (picture, sparse_search, dense_search)
    workers = [Worker(partial(work, given), num_threads) for work in works]
    try:
        rounds = [[worker.run() for worker in workers] for _ in range(1 + ROUNDS)][1:]
    finally:
        for worker in workers:
            worker.__exit__()
    seconds = [median(each.seconds for each in runs) for runs in zip(*rounds, strict=True)]
    return Costs(variant, seconds[0], max(runs[0].peak_mb for runs in rounds), *seconds[1:])


class Given:
    """The network and the picture, loaded."""

    def __init__(
        self, checkpoint: str, data: str, search_all_keys: bool, precision: Precision
    ) -> None:
        self.model: SDDuSR = load_model(checkpoint).eval()
        self.model.matching.mask_keys &= not search_all_keys
        self.triplet: Triplet = next(ShardSet(data).iterate("test"))
        self.precision: Precision = precision

    def search(self) -> None:
        triplet = self.triplet
        aligned = align_ref(triplet.ref, triplet.center_box)
        center = crop(triplet.lr, to_lr(aligned.box))
        lr = padded_to_even(triplet.lr)
        inputs = Inputs(lr, center, aligned.ref, torch.device("cpu"))
        bfloat16 = self.precision == "bfloat16"
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            search(self.model, inputs, lambda share: None)


def picture(given: Callable[[], Given]) -> Callable[[], Any]:
    it = given()
    triplet = it.triplet
    place = (triplet.lr, triplet.ref, triplet.center_box)
    return lambda: super_resolve(it.model, *place, it.precision)


def sparse_search(given: Callable[[], Given]) -> Callable[[], Any]:
    return given().search


def dense_search(given: Callable[[], Given]) -> Callable[[], Any]:
    it = given()
    it.model.matching.mask_generator = None
    it.model.matching.mask_keys = False
    return it.search


def costs_table(costs: Sequence[Costs]) -> str:
    """Markdown."""
    lines = [
        "| network | whole picture | peak memory | search | the same without masks | faster |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in costs:
        cells = [
            each.variant,
            f"{each.picture_s:.1f} s",
            f"{each.peak_mb:.0f} MB",
            f"{each.search_s:.2f} s",
            f"{each.dense_search_s:.2f} s",
            f"{each.dense_search_s / each.search_s:.1f} times",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
