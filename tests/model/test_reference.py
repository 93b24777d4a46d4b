"""Ours against the plain way of benchmarks/reference.py, which shares nothing of how ours runs."""

from dataclasses import replace

import pytest
import torch

from benchmarks import reference
from sddusr.config import MaskConfig
from sddusr.model.matching.sparse_search import sparse_match
from sddusr.model.matching.transfer import transfer_patches
from sddusr.model.sddusr import SDDuSR
from tests.tiny import TINY, pictures, without_zero_starts

DENSE = replace(TINY, mask=MaskConfig(enabled=False))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return without_zero_starts(SDDuSR(DENSE))


@torch.no_grad()
def test_a_picture_of_one_chunk_is_the_plain_ways(model):
    lr, lr_center, ref = pictures(batch=1, lr=(32, 40), center=(16, 20))
    ours = model.eval()(lr, lr_center, ref).sr
    torch.testing.assert_close(ours, reference.super_resolve(model, lr, lr_center, ref))


@torch.no_grad()
def test_a_training_batch_is_what_the_literal_matrices_give(model):
    batch = pictures(batch=2, lr=(16, 16), center=(16, 16))
    torch.testing.assert_close(model.train()(*batch).sr, reference.train_forward(model, *batch))


@torch.no_grad()
def test_chunks_find_the_keys_that_the_whole_picture_finds():
    """Chunks cut the patches at their own border, which is thrown away."""
    torch.manual_seed(0)
    query_feat, key_feat = torch.randn(1, 4, 100, 110), torch.randn(1, 4, 20, 24)
    aligned_feat = torch.randn(1, 3, 80, 96)
    found = sparse_match(query_feat, key_feat, None, None)
    warped = transfer_patches(aligned_feat, found.key_index, torch.ones(1, 1, 100, 110))
    confidence, index, moved = reference.match_features(query_feat, key_feat, aligned_feat)
    assert torch.equal(found.key_index, index)
    torch.testing.assert_close(confidence.flatten(1), found.confidence)
    torch.testing.assert_close(moved, warped)
