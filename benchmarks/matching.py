"""Matching and re-assembly beside the plain way (reference.py): every chunk on its own, whole score
matrices, `max(dim)`, 5,184-wide patches; on the features of a photograph.

python benchmarks/matching.py [--quick]
"""

import argparse
from functools import partial

import cv2
import reference
import torch
from _timing import compare
from skimage import data
from torch import Tensor

from sddusr.config import PAPER
from sddusr.inference import to_tensor
from sddusr.model.features import MatchingFeatures
from sddusr.model.matching import sparse_match
from sddusr.model.search import CERTAIN, PROBABLE
from sddusr.model.warp import transfer_patches

KEPT = 0.85, 0.5, 0.25


def match(
    query_feat: Tensor,
    key_feat: Tensor,
    aligned_feat: Tensor,
    *,
    allowance: float = CERTAIN,
    kept: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Index of each query's key, and the warped feature; `kept` is the share that takes part."""
    masks = [None, None]
    if kept is not None:
        masks = [torch.rand(1, 1, *feat.shape[2:]) < kept for feat in (query_feat, key_feat)]
    found = sparse_match(query_feat, key_feat, *masks, allowance=allowance)
    weight = torch.ones_like(query_feat[:, :1]) if masks[0] is None else masks[0].float()
    return found.key_index, transfer_patches(aligned_feat, found.key_index, weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the size, one round")
    args = parser.parse_args()
    height, width, num_rounds = (224, 448, 1) if args.quick else (448, 896, 3)
    torch.manual_seed(0)
    photograph = cv2.resize(data.astronaut(), (width, height), interpolation=cv2.INTER_AREA)
    lr = to_tensor(photograph)[None]
    lr_center = lr[..., height // 4 : -height // 4, width // 4 : -width // 4].contiguous()
    aligned_feat = torch.randn(1, PAPER.model.dim, *(2 * side for side in lr_center.shape[2:]))
    features = MatchingFeatures(PAPER.model.matching).eval()
    with torch.inference_mode():
        query_feat, key_feat = features(lr), features(lr_center)
        inputs = query_feat, key_feat, aligned_feat
        ours, plain = match(*inputs)[0], reference.match_features(*inputs)[1]
        print(f"LR {height}x{width}: {(ours == plain).float().mean():.4%} of indices are the same")
        theirs = partial(reference.match_features, *inputs)
        compare("matching/exact", partial(match, *inputs), theirs, num_rounds)
        shortly = partial(match, *inputs, allowance=PROBABLE)
        compare("matching/bf16", shortly, theirs, num_rounds)
        for kept in KEPT:
            name = f"matching/sparse-{kept * 100:.0f}"
            compare(name, partial(match, *inputs, kept=kept), theirs, num_rounds)
        compare(
            "matching/exact+features",
            lambda: match(features(lr), features(lr_center), aligned_feat),
            partial(reference.match_pictures, features, lr, lr_center, aligned_feat),
            num_rounds,
        )


if __name__ == "__main__":
    main()
