"""Runs the Triton kernel in Triton's interpreter beside the plain search: prints what differs.

A process of its own: the interpreter is chosen before Triton is imported.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

import torch

from sddusr.model.matching.triton_search import split_length, triton_search


def check(num_queries: int, num_keys: int, dim: int, query_block: int, key_block: int) -> None:
    torch.manual_seed(num_queries + num_keys)
    query, key = (
        torch.nn.functional.normalize(torch.randn(num, dim), dim=1)
        for num in (num_queries, num_keys)
    )
    key[num_keys // 2] = key[0]  # a tie
    query[0] = key[0]
    index, score = triton_search(query, key, "ieee", query_block, key_block)
    truth = query.double() @ key.double().T
    best = truth.amax(1)
    torch.testing.assert_close(score.double(), best, rtol=0, atol=1e-6)
    picked = truth.gather(1, index[:, None])[:, 0]
    torch.testing.assert_close(picked, best, rtol=0, atol=1e-6)
    assert index[0] == 0, "of equals the first"
    gap = truth.topk(min(2, num_keys), dim=1).values
    is_clear = gap[:, 0] - gap[:, -1] > 1e-6 if num_keys > 1 else torch.ones(num_queries).bool()
    assert torch.equal(index[is_clear], truth.argmax(1)[is_clear])


def main() -> None:
    assert split_length(144) == (128, 16)
    assert split_length(36) == (32, 16)
    assert split_length(9) == (16, 16)
    for shape in ((70, 130, 144, 32, 64), (33, 1, 36, 16, 16), (1, 65, 9, 16, 32)):
        check(*shape)
    nothing = triton_search(torch.empty(0, 9), torch.ones(2, 9))
    assert [len(part) for part in nothing] == [0, 0]
    print("equal")


if __name__ == "__main__":
    main()
