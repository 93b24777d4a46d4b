"""Which few keys can be a query's best, said by products in bfloat16, and which of them it is.

A bfloat16 product is several times faster than a float32 one and too coarse to choose by: the best
keys of a query differ by 1e-4 and less. It is fine enough to rule keys out. Cauchy-Schwarz bounds
how far rounding moved a score, so what lies further than that below the best cannot win, and what
is left is scored again in float32. Three things keep the list short:

- The keys' mean μ is taken off both sides, since patches of a picture resemble each other and the
  error grows with the length of what is rounded: q·k − q·μ = (q−μ)·(k−μ) + μ·(k−μ), where the last
  term rides along as two more columns.
- A column subtracts what the query reaches in a sample of the keys, so that scores near the best
  are near zero, where bfloat16 is finest.
- Only the maxima of groups of keys are compared; most groups are never opened.
"""

from typing import NamedTuple

import torch
from jaxtyping import BFloat16, Bool, Float, Int
from torch import Tensor

QUERY_STRIP = 4096
"""Queries that are rounded together, and whose candidates are scored together: fewer small
steps."""

QUERY_BLOCK = 128
KEY_BLOCK = 32768
"""Queries and keys whose coarse scores are held at once: 8 MB, which the last cache holds."""

KEY_GROUP = 64
"""Keys of which only the maximum is looked at first."""

CROWD = 8
"""A query whose candidates lie in more than one of so many groups is left to a plain search."""

SAMPLE_STEP = 32
"""Every so many-th key tells roughly what the best score will be."""

MARGIN = 0.02
"""Left above zero of what the sample reaches, so that all scores that matter are positive."""

NUM_EXTRA = 16
"""Columns beside the vector: two for the keys' part of the mean, one for the sample's best, the
others zero, since the product likes multiples of 16."""

SAMPLED = 2 - NUM_EXTRA
"""Of these, the one for the sample's best, counted from the last."""

PAIRS = 8192
"""Candidates scored at once."""

HALF_ULP = torch.finfo(torch.bfloat16).eps / 2
"""Largest relative error of rounding to bfloat16."""

SUMMING = 1e-6
"""Allowed for float32 sums of products."""


class Answer(NamedTuple):
    """What a shortlist found."""

    key_index: Int[Tensor, "q"]
    score: Float[Tensor, "q"]
    is_crowded: Bool[Tensor, "q"]
    """Too many candidates: index and score mean nothing."""


class _Rounded(NamedTuple):
    """Queries to be multiplied with the coarse keys."""

    coarse: BFloat16[Tensor, "q extended"]
    error: Float[Tensor, "q"]
    """How wrong a product can be."""
    reached: Float[Tensor, "q"]
    """What the best of the sample reaches at least: a block of keys may hold nothing that good."""


class _Pairs(NamedTuple):
    """Candidates."""

    query: Int[Tensor, "pairs"]
    key: Int[Tensor, "pairs"]


class Shortlist:
    """Keys that were made ready to be shortlisted.

    Args:
        keys: unit vectors.
        allowance: share of the bound on rounding errors; below 1 the best key may be missed.
    """

    def __init__(self, keys: Float[Tensor, "k d"], allowance: float) -> None:
        self.keys, self.allowance = keys, allowance
        self.mean = keys.mean(dim=0)
        centred = keys - self.mean
        offset = centred @ self.mean
        self.coarse = keys.new_zeros(
            -(-len(keys) // KEY_GROUP) * KEY_GROUP,
            keys.shape[1] + NUM_EXTRA,
            dtype=torch.bfloat16,
        )
        vector, extra = self.coarse[: len(keys), : keys.shape[1]], self.coarse[:, keys.shape[1] :]
        vector[:] = centred
        extra[: len(keys), 0] = offset
        extra[: len(keys), 1] = offset - extra[: len(keys), 0]
        self.coarse[:, SAMPLED] = -1
        extra[len(keys) :, 0] = -torch.inf  # what fills the last group is nobody's best
        self.sample = self.coarse[: len(keys) : SAMPLE_STEP].contiguous()
        self.longest = centred.norm(dim=1).max()
        self.most_lost = (centred - vector).norm(dim=1).max()

    def best(self, query: Float[Tensor, "q d"]) -> Answer:
        """Best key and its cosine of each query."""
        found = [self._answer(strip) for strip in query.split(QUERY_STRIP)]
        return Answer(*(torch.cat(part) for part in zip(*found, strict=True)))

    def _answer(self, query: Float[Tensor, "q d"]) -> Answer:
        rounded = self._rounded(query)
        score = query.new_full((len(query),), -torch.inf)
        index = torch.zeros(len(query), dtype=torch.long, device=query.device)
        is_crowded = torch.zeros_like(index, dtype=torch.bool)
        level = query @ self.mean + rounded.coarse[:, SAMPLED]  # what coarse scores leave out
        for start in range(0, len(self.coarse), KEY_BLOCK):
            keys = self.coarse[start : start + KEY_BLOCK]
            known = rounded._replace(reached=torch.maximum(score - level, rounded.reached))
            pairs, is_crowded = _candidates(known, keys, is_crowded)
            score, index = self._choose(query, score, index, pairs.query, start + pairs.key)
        return Answer(index, score, is_crowded)

    def _rounded(self, query: Float[Tensor, "q d"]) -> _Rounded:
        dim = query.shape[1]
        centred = query - self.mean
        coarse = query.new_zeros(len(query), dim + NUM_EXTRA, dtype=torch.bfloat16)
        coarse[:, :dim] = centred
        coarse[:, dim : dim + 2] = 1
        sample = _amax(self.sample @ coarse.T, dim=0).float()
        coarse[:, SAMPLED] = sample - MARGIN
        reached = sample - HALF_ULP * sample.abs() - coarse[:, SAMPLED]
        kept = coarse[:, :dim].float()
        error = (centred - kept).norm(dim=1) * self.longest + kept.norm(dim=1) * self.most_lost
        return _Rounded(coarse, self.allowance * error + SUMMING, reached)

    def _choose(
        self, query: Tensor, score: Tensor, index: Tensor, who: Tensor, key: Tensor
    ) -> tuple[Float[Tensor, "q"], Int[Tensor, "q"]]:
        """The better of what is known and the best candidate; of equals the first."""
        exact = [
            torch.linalg.vecdot(query.index_select(0, some), self.keys.index_select(0, others))
            for some, others in zip(who.split(PAIRS), key.split(PAIRS), strict=True)
        ]
        exact = torch.cat(exact)
        best = score.scatter_reduce(0, who, exact, "amax")
        wins = exact == best[who]
        first = torch.full_like(index, len(self.keys)).scatter_reduce(
            0, who[wins], key[wins], "amin"
        )
        return best, torch.where(best > score, first, index)


def _candidates(
    queries: _Rounded, keys: BFloat16[Tensor, "k extended"], is_crowded: Bool[Tensor, "q"]
) -> tuple[_Pairs, Bool[Tensor, "q"]]:
    """Pairs of query and key that may be a query's best, and which queries have too many.

    Args:
        is_crowded: queries that have too many already, and get none.
    """
    num_groups = len(keys) // KEY_GROUP
    # Among fewer keys more queries: the small steps around the product cost less.
    num = QUERY_BLOCK * max(1, KEY_BLOCK // len(keys))
    room = keys.new_empty(len(keys) * min(num, len(queries.coarse)))
    found, crowds = [], []
    blocks = zip(*(part.split(num) for part in (*queries, is_crowded)), strict=True)
    for number, (coarse, error, reached, crowd) in enumerate(blocks):
        groups, peaks = _scored(keys, coarse, room)
        top = torch.maximum(peaks.amax(dim=0), reached)
        threshold = top - 2 * (error + HALF_ULP * top.abs())
        near = peaks >= threshold
        crowd = crowd | (near.sum(dim=0) > max(1, num_groups // CROWD)) | (threshold <= 0)
        pairs = _opened(groups, near & ~crowd, threshold)
        found.append(_Pairs(number * num + pairs.query, pairs.key))
        crowds.append(crowd)
    return _Pairs(*(torch.cat(part) for part in zip(*found, strict=True))), torch.cat(crowds)


def _scored(
    keys: BFloat16[Tensor, "k extended"],
    query: BFloat16[Tensor, "q extended"],
    room: BFloat16[Tensor, "n"],
) -> tuple[BFloat16[Tensor, "groups size q"], Float[Tensor, "groups q"]]:
    """Coarse scores, cut into groups, and each group's maximum.

    In this order, the product is fastest and a group's maximum is taken of whole rows.

    Args:
        room: for the scores.
    """
    scores = room[: len(keys) * len(query)].view(len(keys), len(query))
    torch.mm(keys, query.T, out=scores)
    groups = scores.unflatten(0, (-1, KEY_GROUP))
    return groups, _amax(groups, dim=1).float()


def _amax(scores: BFloat16[Tensor, "*axes"], dim: int) -> BFloat16[Tensor, "*rest"]:
    """The largest where any is positive, else one of them.

    As integers, positive numbers keep their order and negative ones stay below them; their maximum
    is five times faster.
    """
    return scores.view(torch.int16).amax(dim).view(torch.bfloat16)


def _opened(
    groups: BFloat16[Tensor, "groups size q"],
    near: Bool[Tensor, "groups q"],
    threshold: Float[Tensor, "q"],
) -> _Pairs:
    """Pairs that reach the threshold, in the groups that do."""
    group, who = near.nonzero(as_tuple=True)
    members = groups[group, :, who].float() >= threshold[who, None]
    row, place = members.nonzero(as_tuple=True)
    return _Pairs(who[row], group[row] * KEY_GROUP + place)
