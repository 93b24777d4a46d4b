"""The most similar key of each query, without holding the scores of all pairs (Eq. 3's argmax)."""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sddusr.model.matching.shortlist import Shortlist
from sddusr.model.precision import computes_bfloat16
from sddusr.model.tuning import tuning

Progress = Callable[[float], None]
"""Receives the share of the work that is done, 0 to 1."""

KEY_GROUP = 64
"""Keys over which a plain maximum is taken before any index is looked for."""

MIN_KEYS = 1024
"""With fewer keys a shortlist saves nothing."""

CERTAIN = 1.0
PROBABLE = 0.5
"""Share of the largest possible rounding error that a shortlist allows for. Real errors are 10 to
50 times smaller, except where whole neighbourhoods are alike and round alike."""


class Best(NamedTuple):
    """The most similar key of each query; the first one where several tie."""

    key_index: Int[Tensor, "q"]
    score: Float[Tensor, "q"]
    """Cosine."""


class KeySearch:
    """Answers queries among some keys: plainly, or from a shortlist where the machine is fast at
    it.

    Args:
        keys: unit vectors.
        allowance: for rounding, `CERTAIN` or `PROBABLE`.
    """

    def __init__(self, keys: Float[Tensor, "k d"], allowance: float = CERTAIN) -> None:
        self.keys, self.shortlist = keys, None
        if len(keys) >= MIN_KEYS and keys.dtype == torch.float32 and multiplies_bfloat16(keys):
            self.shortlist = Shortlist(keys, allowance)

    @torch.no_grad()
    def best(self, query: Float[Tensor, "q d"]) -> Best:
        """Index and cosine of the most similar key of each query, in the precision of both."""
        if self.shortlist is None:
            return plain_search(query, self.keys)
        index, score, is_crowded = self.shortlist.best(query)
        if is_crowded.any():
            plain = plain_search(query[is_crowded], self.keys)
            index[is_crowded], score[is_crowded] = plain.key_index, plain.score
        return Best(index, score)


@torch.no_grad()
def best_key(query: Float[Tensor, "q d"], key: Float[Tensor, "k d"]) -> Best:
    """One search among keys that are not asked again."""
    return KeySearch(key).best(query)


def multiplies_bfloat16(like: Tensor) -> bool:
    """Whether this is a processor whose bfloat16 products are several times float32's.

    On a GPU the plain search never waits for the processor; the shortlist's length would.
    """
    return like.device.type == "cpu" and computes_bfloat16(like.device)


@torch.no_grad()
def plain_search(query: Float[Tensor, "q d"], key: Float[Tensor, "k d"]) -> Best:
    """All scores: in one kernel on a GPU that has Triton, else streamed in blocks."""
    if query.device.type == "cuda" and query.dtype == torch.float32 and has_triton() and len(key):
        return Best(*_search_on_gpu(query, key))
    return block_search(query, key)


@cache
def has_triton() -> bool:
    """Whether Triton is installed, as it is with torch's CUDA builds on Linux."""
    return find_spec("triton") is not None


@torch.library.custom_op("sddusr::best_key", mutates_args=())
def _search_on_gpu(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """An operator of its own, so that compilers and counters see one."""
    if query.device.type == "cpu":
        found = block_search(query, key)
        return found.key_index, found.score
    from sddusr.model.matching.triton_search import triton_search

    is_coarse = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return triton_search(query, key, "tf32" if is_coarse else "tf32x3")


@_search_on_gpu.register_fake
def _(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    return query.new_empty(len(query), dtype=torch.long), query.new_empty(len(query))


@torch.no_grad()
def block_search(query: Float[Tensor, "q d"], key: Float[Tensor, "k d"]) -> Best:
    """All scores, streamed in blocks.

    Within a block the maximum of every group of keys is taken without indices; only the winning
    group's scores are looked at again.
    """
    sizes = tuning(query.device)
    width = _block_width(len(key), sizes.search_keys)
    scores = query.new_empty(min(len(query), sizes.search_queries) * width)
    blocks = [
        _best_key_of_block(block, key, scores, width) for block in query.split(sizes.search_queries)
    ]
    return Best(*(torch.cat(part) for part in zip(*blocks, strict=True)))


def _block_width(num_keys: int, most: int) -> int:
    """Keys of a block, in whole groups. Blocks of equal size: a small last one takes as many steps
    as a large one."""
    num_blocks = max(1, -(-num_keys // most))
    return _whole_groups(-(-num_keys // num_blocks))


def _whole_groups(num_keys: int) -> int:
    return -(-num_keys // KEY_GROUP) * KEY_GROUP


def _best_key_of_block(query: Tensor, key: Tensor, buffer: Float[Tensor, "n"], width: int) -> Best:
    best_score = query.new_full((len(query),), -torch.inf)
    best_index = torch.zeros(len(query), dtype=torch.long, device=query.device)
    every = torch.arange(len(query), device=query.device)
    for start in range(0, len(key), width):
        keys = key[start : start + width]
        shape = len(query), _whole_groups(len(keys))
        scores = buffer[: shape[0] * shape[1]].view(shape)
        scores[:, len(keys) :] = -torch.inf
        torch.mm(query, keys.T, out=scores[:, : len(keys)])
        groups = scores.unflatten(1, (-1, KEY_GROUP))
        score, group = groups.amax(dim=2).max(dim=1)
        index = start + group * KEY_GROUP + groups[every, group].argmax(dim=1)
        better = score > best_score
        best_score = torch.where(better, score, best_score)
        best_index = torch.where(better, index, best_index)
    return Best(best_index, best_score)
