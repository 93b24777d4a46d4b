"""A shortlist by bfloat16 products chooses what float32 chooses."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from sddusr.model.matching import shortlist
from sddusr.model.matching.nearest_key import CERTAIN, PROBABLE, KeySearch
from sddusr.model.matching.patches import unit_patches
from sddusr.model.matching.shortlist import Shortlist

ROUNDING = 1e-6
"""Of a float32 cosine: keys that are this close may change places."""


def smooth_patches(rows: int, cols: int, seed: int) -> torch.Tensor:
    """Patches of a picture whose neighbourhoods resemble each other, a part of it flat."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 8, rows // 4, cols // 4, generator=generator)
    features = F.interpolate(coarse, size=(rows, cols), mode="bicubic") + 1
    features[..., : cols // 4] = 1
    return unit_patches(features + 0.002 * torch.randn(features.shape, generator=generator))[0]


def lost(query, key, index):
    """How far the chosen key's cosine lies below the best one, in float64."""
    score = query.double() @ key.double().T
    return score.amax(1) - score.gather(1, index[:, None])[:, 0]


@pytest.mark.parametrize("key_block", [256, 32768])
@given(seed=st.integers(0, 99), num_keys=st.sampled_from([1, 63, 64, 1000]))
def test_no_key_that_could_win_is_left_out(key_block, seed, num_keys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shortlist, "KEY_BLOCK", key_block)
        patch.setattr(shortlist, "QUERY_STRIP", 250)
        patch.setattr(shortlist, "QUERY_BLOCK", 100)
        query, key = smooth_patches(16, 20, seed), smooth_patches(28, 36, seed + 1)[-num_keys:]
        index, score, is_crowded = Shortlist(key, CERTAIN).best(query)
    found = ~is_crowded
    assert lost(query[found], key, index[found]).le(ROUNDING).all()
    picked = torch.linalg.vecdot(query, key[index])
    torch.testing.assert_close(score[found], picked[found], rtol=0, atol=ROUNDING)


def test_some_queries_are_answered_and_some_are_crowded():
    query, key = smooth_patches(16, 20, 0), smooth_patches(28, 36, 1)
    is_crowded = Shortlist(key, CERTAIN).best(query).is_crowded
    assert 0.05 < is_crowded.float().mean() < 0.95


def test_a_block_without_a_good_key_crowds_nobody(monkeypatch):
    """The sample has seen a better key than most blocks hold."""
    monkeypatch.setattr(shortlist, "KEY_BLOCK", 8192)
    torch.manual_seed(0)
    query, key = (F.normalize(torch.randn(num, 144), dim=1) for num in (200, 32768))
    index, _, is_crowded = Shortlist(key, CERTAIN).best(query)
    assert not is_crowded.any()
    assert lost(query, key, index).le(ROUNDING).all()


@pytest.mark.parametrize("allowance", [CERTAIN, PROBABLE])
def test_a_search_with_a_shortlist_finds_the_best_key(monkeypatch, allowance):
    monkeypatch.setattr("sddusr.model.matching.nearest_key.multiplies_bfloat16", lambda like: True)
    query, key = smooth_patches(40, 40, 0), smooth_patches(48, 48, 1)
    search = KeySearch(key, allowance)
    assert search.shortlist is not None
    index, score = search.best(query)
    losses = lost(query, key, index)
    assert losses.le(ROUNDING).float().mean() >= (1.0 if allowance == CERTAIN else 0.999)
    assert losses.max() < 1e-3
    assert (score.double() - (query.double() @ key.double().T).amax(1)).abs().max() < 1e-3


def test_of_equal_keys_the_first_wins_across_groups_and_blocks(monkeypatch):
    monkeypatch.setattr(shortlist, "KEY_BLOCK", 2048)
    torch.manual_seed(0)
    key = F.normalize(torch.randn(4000, 36), dim=1)
    for twin in (1, 63, 64, 2047, 2048, 3999):
        key[twin] = key[700]
    index, score, is_crowded = Shortlist(key, CERTAIN).best(key[[700, 3999, 5]])
    assert not is_crowded.any()
    assert index.tolist() == [1, 1, 5]
    torch.testing.assert_close(score, torch.ones(3))


def test_opposite_vectors_are_left_to_the_plain_search(monkeypatch):
    """All scores negative: integers would order them backwards."""
    monkeypatch.setattr("sddusr.model.matching.nearest_key.multiplies_bfloat16", lambda like: True)
    torch.manual_seed(0)
    key = F.normalize(torch.randn(2048, 16) + 9, dim=1)
    query = -key[:50]
    assert lost(query, key, KeySearch(key).best(query).key_index).le(ROUNDING).all()
