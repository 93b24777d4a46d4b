"""How much of a picture's work is done."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import nn

from sddusr.config import LR_PER_CELL, SCALE
from sddusr.inference.precompute import Inputs
from sddusr.model.matching.clustered_keys import CLUSTER_SIZE
from sddusr.model.matching.fast_search import NUM_PROBES, MatchingMode, goes_fast
from sddusr.model.matching.nearest_key import Progress
from sddusr.model.sddusr import SDDuSR, num_parameters

Item = TypeVar("Item")

SEARCH_FLOPS_PER_PAIR = 100
"""Of the 288 of a 3x3 patch of 16 channels; masks leave about a third of the pairs."""

FAST_KEYS = 2 * NUM_PROBES * CLUSTER_SIZE
"""Keys that a query of a fast search costs as much as: small products are half as fast."""


class WeightedProgress:
    """Weighs the stages by the operations they cost, roughly."""

    def __init__(
        self,
        model: SDDuSR,
        inputs: Inputs,
        progress: Progress | None,
        matching: MatchingMode = "exact",
    ) -> None:
        num_px = inputs.lr.shape[0] * inputs.lr.shape[1]
        num_ref_px = inputs.ref.shape[0] * inputs.ref.shape[1]
        cells, keys = num_px / LR_PER_CELL**2, num_ref_px / (SCALE * LR_PER_CELL) ** 2
        if goes_fast(matching, int(keys), torch.empty(0, device=inputs.device)):
            keys = min(keys, FAST_KEYS)
        fusion = model.fusion

        def convolving(num_px: int, *parts: nn.Module) -> float:
            return 2.0 * num_px * sum(num_parameters(part) for part in parts)

        costs = {
            "search": SEARCH_FLOPS_PER_PAIR * cells * keys,
            "learn": convolving(
                num_ref_px, model.center_encoder, model.ref_encoder, model.alignment
            ),
            "encode": convolving(num_px, model.lr_encoder),
            "pool": convolving(SCALE**2 * num_px, fusion.widest),
            "narrow": convolving(SCALE**2 * num_px, fusion.body[:-1]),
            "decode": convolving(SCALE**2 * num_px, fusion.body[-1], model.head),
        }
        total = sum(costs.values())
        self.shares = {name: cost / total for name, cost in costs.items()}
        self.progress = progress

    def of(self, *stages: str) -> Progress:
        """What stages that follow each other tell their own share to."""
        names = list(self.shares)
        before = sum(self.shares[name] for name in names[: names.index(stages[0])])
        own = sum(self.shares[name] for name in stages)

        def report(share: float) -> None:
            if self.progress is not None:
                self.progress(before + own * share)

        return report


def counted(items: Sequence[Item], progress: Progress) -> Iterator[Item]:
    """The same items; the share of them that was worked on is told after each."""
    for done, item in enumerate(items, start=1):
        yield item
        progress(done / len(items))
