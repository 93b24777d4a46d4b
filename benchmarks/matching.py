"""Matching beside the plain way: from features to keys and the Ref feature moved by them.

Exact (float32), in bfloat16 where 99.9 % of the keys must be the same, with the features' own
convolutions, and sparse, beside ours without masks: there the ratio should be 1 / kept pairs.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import reference
import torch
from _network import network, textured
from _timing import Row, arguments, compare, finish, measured_rates
from torch import Tensor

from sddusr.config.arguments import parse_args
from sddusr.model.matching.nearest_key import CERTAIN, PROBABLE
from sddusr.model.matching.sparse_search import sparse_match
from sddusr.model.matching.transfer import transfer_patches

FULL, QUICK = (448, 896), (144, 288)
"""Height and width of LR; its centre has half of both."""

KEPT = (0.85, 0.5, 0.25)


def main() -> None:
    given = parse_args(arguments(__doc__))
    rows = run(given, *(QUICK if given.quick else FULL))
    finish(rows, given)


def run(given: argparse.Namespace, height: int, width: int) -> list[Row]:
    size = height, width
    num_pairs = (height // 2 * width // 2) * (height // 4 * width // 4)
    floor = 288 * num_pairs / measured_rates(given.threads).matrix
    for kind in (random_features, picture_features):
        print(f"{kind.__name__}: {agreement(*kind(size))}")
    plain = partial(plainly, size)
    rows = [
        compare("matching/exact", partial(ours, size, CERTAIN), plain, given, floor),
        compare("matching/bf16", partial(ours, size, PROBABLE), plain, given, floor),
        compare(
            "matching/pictures",
            partial(ours, size, CERTAIN, picture_features),
            partial(plainly, size, picture_features),
            given,
            floor,
        ),
        compare(
            "matching/with-features",
            partial(ours_with_features, size),
            partial(plainly_with_features, size),
            given,
        ),
    ]
    for share in KEPT:
        kept = partial(search_alone, size, share)
        whole = partial(search_alone, size, 1.0)
        rows.append(compare(f"matching/sparse-{100 * share:.0f}", kept, whole, given))
        print(f"    {1 / share**2:.2f} would be proportional to kept queries x kept keys")
    return rows


def random_features(size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Features of LR and centre, and the feature that is moved."""
    torch.manual_seed(0)
    height, width = size
    return (
        torch.randn(1, 16, height // 2, width // 2),
        torch.randn(1, 16, height // 4, width // 4),
        torch.randn(1, 64, height, width),
    )


def picture_features(size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """The same of a picture and its centre, by VGG with random weights: neighbours are alike."""
    lr, center, _ = pictures(size)
    compute = network("paper").matching.features
    with torch.inference_mode():
        return compute(lr), compute(center), random_features(size)[2]


def pictures(size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    height, width = size
    lr = textured(height, width)[None]
    y, x = height // 8 * 2, width // 8 * 2
    center = lr[..., y : y + height // 2, x : x + width // 2].contiguous()
    return lr, center + 0.005 * torch.randn_like(center), random_features(size)[2]


def ours(
    size: tuple[int, int], allowance: float, kind: Callable[..., Any] = random_features
) -> Callable[[], Any]:
    return partial(_ours, *kind(size), allowance)


@torch.inference_mode()
def _ours(query_feat: Tensor, key_feat: Tensor, aligned_feat: Tensor, allowance: float) -> Tensor:
    found = sparse_match(query_feat, key_feat, None, None, allowance=allowance)
    return transfer_patches(aligned_feat, found.key_index, torch.ones_like(query_feat[:, :1]))


def plainly(size: tuple[int, int], kind: Callable[..., Any] = random_features) -> Any:
    return partial(torch.inference_mode()(reference.match_features), *kind(size))


def ours_with_features(size: tuple[int, int]) -> Callable[[], Any]:
    return partial(_ours_with_features, network("paper").matching.features, *pictures(size))


@torch.inference_mode()
def _ours_with_features(features: Any, lr: Tensor, center: Tensor, aligned_feat: Tensor) -> Tensor:
    return _ours(features(lr), features(center), aligned_feat, CERTAIN)


def plainly_with_features(size: tuple[int, int]) -> Callable[[], Any]:
    work = torch.inference_mode()(reference.match_pictures)
    return partial(work, network("paper").matching.features, *pictures(size))


def search_alone(size: tuple[int, int], share: float) -> Callable[[], Any]:
    query_feat, key_feat, _ = random_features(size)
    masks = [torch.rand_like(feat[:, :1]) < share for feat in (query_feat, key_feat)]
    return partial(torch.inference_mode()(sparse_match), query_feat, key_feat, *masks)


@torch.inference_mode()
def agreement(query_feat: Tensor, key_feat: Tensor, aligned_feat: Tensor) -> str:
    """Share of the cells that have the reference's key, and what the others lose in cosine."""
    confidence, index, _ = reference.match_features(query_feat, key_feat, aligned_feat)
    message = []
    for name, allowance in (("exact", CERTAIN), ("bf16", PROBABLE)):
        found = sparse_match(query_feat, key_feat, None, None, allowance=allowance)
        same = (found.key_index == index).float().mean()
        apart = (found.confidence - confidence.flatten(1)).abs().max()
        message.append(f"{name} {same:.4%} the reference's keys, cosines within {apart:.1e}")
    return "; ".join(message)


if __name__ == "__main__":
    main()
