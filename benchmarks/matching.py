"""The streamed search beside `max(dim)` on the same score blocks, in float32."""

import torch
import torch.nn.functional as F
from _timing import compare
from torch import Tensor

from sddusr.model.matching import QUERY_BLOCK, best_key

NUM_QUERIES, NUM_KEYS, DIM = 25_088, 6_272, 144
"""A quarter of DuSR-Real's picture and of its centre."""


def with_indices(query: Tensor, key: Tensor) -> Tensor:
    return torch.cat([(block @ key.T).max(dim=1).indices for block in query.split(QUERY_BLOCK)])


def main() -> None:
    torch.manual_seed(0)
    query = F.normalize(torch.randn(NUM_QUERIES, DIM), dim=1)
    key = F.normalize(torch.randn(NUM_KEYS, DIM), dim=1)
    same = (best_key(query, key)[0] == with_indices(query, key)).float().mean()
    print(f"{NUM_QUERIES} queries, {NUM_KEYS} keys; same index {same:.4%}")
    compare("search", lambda: best_key(query, key), lambda: with_indices(query, key))


if __name__ == "__main__":
    main()
