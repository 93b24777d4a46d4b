"""The search by clusters: near the plain search, the same in every run, and guarded."""

import logging
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sddusr.geometry.box import Box
from sddusr.model.matching import clustered_keys, fast_search
from sddusr.model.matching.clustered_keys import ClusteredKeys
from sddusr.model.matching.nearest_key import plain_search
from sddusr.model.matching.patches import unit_patches
from sddusr.model.matching.sparse_search import sparse_match
from sddusr.model.matching.twins import CenterPlace
from sddusr.model.tuning import TUNINGS


@pytest.fixture
def small_clusters(monkeypatch):
    """Clusters, blocks and strips so small that a test has many of each."""
    monkeypatch.setattr(clustered_keys, "CLUSTER_SIZE", 16)
    monkeypatch.setattr(clustered_keys, "QUERY_BLOCK", 16)
    monkeypatch.setitem(TUNINGS, "cpu", replace(TUNINGS["cpu"], cluster_scores=3 * 16 * 16))
    monkeypatch.setattr(clustered_keys, "CENTRE_BLOCK", 100)
    monkeypatch.setattr(fast_search, "STRIP", 400)
    monkeypatch.setattr(fast_search, "PROPAGATION_STRIP", 200)


def features(height, width, seed=0, dtype=torch.float32):
    """Smooth structure and noise, as a picture's features have."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.zeros(1, 6, height, width, dtype=dtype)
    for cell, strength in ((8, 1.0), (3, 0.7), (1, 0.3)):
        noise = torch.randn(1, 6, height // cell + 2, width // cell + 2, generator=generator)
        found += strength * F.interpolate(noise.to(dtype), size=(height, width), mode="bicubic")
    return found


def pair(seed=0, dtype=torch.float32):
    """Features of a picture and of its middle."""
    query = features(28, 32, seed, dtype)
    return query, query[..., 6:22, 8:28].clone()


PLACE = CenterPlace(Box(6, 22, 8, 28), 0)


def test_a_query_that_looks_into_all_clusters_finds_the_best_key(small_clusters):
    """Against the plain search, in float64."""
    query, key = (unit_patches(f)[0] for f in pair(dtype=torch.float64))
    clusters = ClusteredKeys(key)
    assert len(clusters.size) > 20
    found, best = clusters.best(query, num_probes=len(clusters.size)), plain_search(query, key)
    torch.testing.assert_close(found.score, best.score, rtol=0, atol=1e-12)
    assert torch.equal(clusters.order[found.key_index], best.key_index)


@settings(max_examples=12)
@given(seed=st.integers(0, 999), kept=st.floats(0.2, 1))
def test_scores_are_those_of_the_keys_that_are_named_and_near_the_best(seed, kept):
    """With masks; every answer is a kept key, with its own cosine."""
    query_feat, key_feat = pair(seed, torch.float64)
    generator = torch.Generator().manual_seed(seed)
    masks = [torch.rand(f[:, :1].shape, generator=generator) < kept for f in (query_feat, key_feat)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clustered_keys, "CLUSTER_SIZE", 16)
        fast = sparse_match(query_feat, key_feat, *masks, mode="fast")
    exact = sparse_match(query_feat, key_feat, *masks)
    asked, allowed = (mask.flatten() for mask in masks)
    query, key = unit_patches(query_feat)[0], unit_patches(key_feat)[0]
    own = (query * key[fast.key_index[0]]).sum(1)
    torch.testing.assert_close(fast.confidence[0, asked], own[asked])
    assert allowed[fast.key_index[0, asked]].all()
    assert not fast.confidence[0, ~asked].any()
    assert (fast.confidence <= exact.confidence + 1e-12).all()
    assert fast.confidence.mean() > 0.97 * exact.confidence.mean()
    assert fast.is_fast
    assert not exact.is_fast


def test_neighbours_find_what_clusters_miss(small_clusters, monkeypatch):
    monkeypatch.setattr(fast_search, "NUM_PROBES", 1)
    alone = pytest.MonkeyPatch()
    alone.setattr(fast_search, "NEIGHBOURS", ())
    ratios = [sparse_match(*pair(), None, None, mode="fast").confidence_ratio]
    alone.undo()
    ratios.append(sparse_match(*pair(), None, None, mode="fast").confidence_ratio)
    assert ratios[0] < ratios[1]


def test_neighbours_of_twins_profit(small_clusters, monkeypatch):
    """A smooth shift leads from the copies to the cells around them."""
    monkeypatch.setattr(fast_search, "NUM_PROBES", 1)
    searched, shortcut = (
        sparse_match(*pair(), None, None, mode="fast", place=place) for place in (None, PLACE)
    )
    outside = torch.ones(28, 32, dtype=torch.bool)
    outside[6:22, 8:28] = False
    found = [match.confidence[0, outside.flatten()].mean() for match in (searched, shortcut)]
    assert found[0] <= found[1]


@pytest.mark.parametrize("num_threads", [2, 3])
def test_keys_do_not_depend_on_the_number_of_threads(small_clusters, num_threads):
    alone = sparse_match(*pair(), None, None, mode="fast")
    torch.set_num_threads(num_threads)
    try:
        together = [sparse_match(*pair(), None, None, mode="fast") for _ in range(2)]
    finally:
        torch.set_num_threads(1)
    for match in together:
        assert torch.equal(match.key_index, alone.key_index)
        assert torch.equal(match.confidence, alone.confidence)


def test_flat_regions_give_clusters_of_bounded_size(small_clusters):
    """Keys that are all alike, beside some that are not."""
    query_feat, key_feat = pair()
    key_feat[..., :12, :] = 1.0
    query_feat[..., :14, :] = 1.0
    keys = unit_patches(key_feat)[0]
    clusters = ClusteredKeys(keys)
    assert clusters.size.max() <= 16
    assert torch.equal(clusters.order.sort().values, torch.arange(len(keys)))
    match = sparse_match(query_feat, key_feat, None, None, mode="fast")
    flat = match.confidence[0, : 32 * 12]
    torch.testing.assert_close(flat, torch.ones_like(flat))
    assert match.confidence_ratio > 0.98


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_features_without_any_difference_are_matched(small_clusters, value):
    """All keys tie; without signal the cosine is 0."""
    query_feat, key_feat = (torch.full_like(f, value) for f in pair())
    for mode in ("fast", "exact"):
        match = sparse_match(query_feat, key_feat, None, None, mode=mode, place=PLACE)
        torch.testing.assert_close(match.confidence, torch.full_like(match.confidence, value))
    assert sparse_match(query_feat, key_feat, None, None, mode="fast").confidence_ratio == (
        pytest.approx(1)
    )


@pytest.mark.parametrize(("num_queries", "num_keys"), [(0, 5), (5, 0), (0, 0), (1, 1), (3, 2)])
def test_hardly_any_or_no_cells(num_queries, num_keys):
    query_feat, key_feat = pair()
    masks = [torch.zeros_like(f[:, :1]).bool() for f in (query_feat, key_feat)]
    for mask, num in zip(masks, (num_queries, num_keys), strict=True):
        mask.view(-1)[100 : 100 + num] = True
    fast, exact = (
        sparse_match(query_feat, key_feat, *masks, mode=mode) for mode in ("fast", "exact")
    )
    torch.testing.assert_close(fast.confidence, exact.confidence)
    assert torch.equal(fast.key_index, exact.key_index)


def test_a_batch_is_each_of_its_samples(small_clusters):
    pairs = [pair(seed) for seed in (0, 1)]
    told = []
    both = sparse_match(
        *(torch.cat(f) for f in zip(*pairs, strict=True)), None, None, told.append, mode="fast"
    )
    for i, one in enumerate(pairs):
        alone = sparse_match(*one, None, None, mode="fast")
        assert torch.equal(both.key_index[i], alone.key_index[0])
    assert told == sorted(told)
    assert told[-1] == 1


@pytest.mark.parametrize("mode", ["auto", "fast"])
def test_the_guard_warns_and_auto_searches_exactly(small_clusters, monkeypatch, caplog, mode):
    """A search that looks into one cluster, without neighbours, misses too much."""
    monkeypatch.setattr(fast_search, "NUM_PROBES", 1)
    monkeypatch.setattr(fast_search, "NEIGHBOURS", ())
    monkeypatch.setattr(fast_search, "FAST_FROM", 1)
    told = []
    with caplog.at_level(logging.WARNING):
        match = sparse_match(*pair(), None, None, told.append, mode=mode)
    assert told == sorted(told)
    assert told[-1] == 1
    assert match.confidence_ratio < fast_search.LEAST_RATIO
    assert "of the exact confidence" in caplog.text
    exact = sparse_match(*pair(), None, None)
    assert match.is_fast == (mode == "fast")
    assert torch.equal(match.key_index, exact.key_index) == (mode == "auto")


def test_the_guard_tells_the_ratio_of_what_was_found(small_clusters, monkeypatch):
    """With as many drawn as there are, it is the ratio of the means."""
    fast = sparse_match(*pair(), None, None, mode="fast")
    exact = sparse_match(*pair(), None, None)
    assert fast.confidence_ratio == pytest.approx(
        float(fast.confidence.mean() / exact.confidence.mean()), abs=0.005
    )
    monkeypatch.setattr(fast_search, "NUM_GUARDED", 10**6)
    fast = sparse_match(*pair(), None, None, mode="fast")
    assert fast.confidence_ratio == pytest.approx(
        float(fast.confidence.mean() / exact.confidence.mean()), abs=1e-6
    )


@pytest.mark.parametrize(
    ("mode", "num_keys", "expected"),
    [("exact", 10**6, False), ("fast", 1, True), ("auto", 2**14 - 1, False), ("auto", 2**14, True)],
)
def test_auto_is_fast_from_a_number_of_keys(mode, num_keys, expected):
    assert fast_search.goes_fast(mode, num_keys, torch.empty(0)) == expected


def test_auto_is_exact_longer_on_a_gpu():
    like = torch.empty(0, device="meta")  # as a GPU is none of the processor's
    assert not fast_search.goes_fast("auto", 2**17 - 1, like)
    assert fast_search.goes_fast("auto", 2**17, like)
