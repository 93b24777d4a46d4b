"""The most similar key of each query in one Triton kernel: a product with a running maximum.

Two numbers a query are written, and no scores. Each program holds a block of queries and walks over
all keys. float32 is multiplied as three TF32 products (`tf32x3`), which keeps float32's choice at
three times its speed; `ieee` and `tf32` are there to compare. Of equal scores the first key wins.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

QUERY_BLOCK, KEY_BLOCK = 128, 64
"""Queries of a program, and keys that it scores at once."""

SMALLEST_DOT = 16
"""Least length of a vector that a GPU multiplies in its matrix units."""


@triton.jit
def _best_key(
    query,
    key,
    index_out,
    score_out,
    num_queries,
    num_keys,
    dim: tl.constexpr,
    head: tl.constexpr,
    tail: tl.constexpr,
    query_block: tl.constexpr,
    key_block: tl.constexpr,
    precision: tl.constexpr,
):
    rows = tl.program_id(0) * query_block + tl.arange(0, query_block)
    in_head, in_tail = tl.arange(0, head), head + tl.arange(0, tail)
    own = rows[:, None] < num_queries
    at = query + rows[:, None].to(tl.int64) * dim
    query_head = tl.load(at + in_head[None, :], mask=own & (in_head[None, :] < dim), other=0.0)
    query_tail = tl.load(at + in_tail[None, :], mask=own & (in_tail[None, :] < dim), other=0.0)
    best = tl.full((query_block,), float("-inf"), tl.float32)
    index = tl.zeros((query_block,), tl.int32)
    for start in range(0, num_keys, key_block):
        cols = start + tl.arange(0, key_block)
        is_key = cols[None, :] < num_keys
        at = key + cols[None, :].to(tl.int64) * dim
        keys = tl.load(at + in_head[:, None], mask=is_key & (in_head[:, None] < dim), other=0.0)
        score = tl.dot(query_head, keys, input_precision=precision)
        keys = tl.load(at + in_tail[:, None], mask=is_key & (in_tail[:, None] < dim), other=0.0)
        score = tl.dot(query_tail, keys, acc=score, input_precision=precision)
        score = tl.where(is_key, score, float("-inf"))
        top, place = tl.max(score, axis=1, return_indices=True, return_indices_tie_break_left=True)
        is_better = top > best
        best = tl.where(is_better, top, best)
        index = tl.where(is_better, start + place, index)
    tl.store(index_out + rows, index.to(tl.int64), mask=rows < num_queries)
    tl.store(score_out + rows, best, mask=rows < num_queries)


def triton_search(
    query: Float[Tensor, "q d"],
    key: Float[Tensor, "k d"],
    precision: str = "tf32x3",
    query_block: int = QUERY_BLOCK,
    key_block: int = KEY_BLOCK,
) -> tuple[Int[Tensor, "q"], Float[Tensor, "q"]]:
    """Index of the best key of each query and its score; float32 in, float32 out.

    Raises:
        ValueError: there is no key.
    """
    if not len(key):
        raise ValueError("no keys, need one or more")
    index = torch.empty(len(query), dtype=torch.long, device=query.device)
    score = torch.empty(len(query), dtype=torch.float32, device=query.device)
    if len(query):
        head, tail = split_length(query.shape[1])
        kernel: Any = _best_key[(triton.cdiv(len(query), query_block),)]
        kernel(
            query.contiguous(),
            key.contiguous(),
            index,
            score,
            len(query),
            len(key),
            query.shape[1],
            head,
            tail,
            query_block,
            key_block,
            precision,
        )
    return index, score


def split_length(dim: int) -> tuple[int, int]:
    """Two powers of two that hold a vector: 144 numbers are 128 and 16, not 256."""
    head = max(SMALLEST_DOT, 1 << (dim.bit_length() - 1))
    return head, max(SMALLEST_DOT, triton.next_power_of_2(max(dim - head, 1)))
