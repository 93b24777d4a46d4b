"""Queries that are copies of a key: the answer without a search is the search's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sddusr.config import MaskConfig, MatchingConfig
from sddusr.geometry.box import Box
from sddusr.inference.tiles import reach
from sddusr.model.matching.matcher import SparseMatching
from sddusr.model.matching.sparse_search import sparse_match
from sddusr.model.matching.twins import CenterPlace, find_twins

ROWS, COLS = 26, 30
"""Cells of the query grid."""


@pytest.fixture(scope="module")
def features():
    torch.manual_seed(0)
    config = MatchingConfig(vgg_dims=(4, 8), vgg_weights="none", dim=4)
    return SparseMatching(config, MaskConfig(enabled=False)).eval().features.double()


spans = st.tuples(st.integers(0, 24), st.integers(2, 26))


def place_of(features, span_y, span_x):
    """A box of at least 2x2 cells in the query grid."""
    edges = []
    for (start, length), side in ((span_y, ROWS), (span_x, COLS)):
        edges += [start, min(start + length, side)]
    return CenterPlace(Box(*edges), -(-reach(features) // 2))


@settings(max_examples=40)
@given(span_y=spans, span_x=spans, seed=st.integers(0, 99))
def test_twins_have_the_score_of_the_search_for_any_box(features, span_y, span_x, seed):
    """In float64, with masks; among the boxes are those that end at the border."""
    generator = torch.Generator().manual_seed(seed)
    lr = torch.rand(1, 3, 2 * ROWS, 2 * COLS, dtype=torch.float64, generator=generator)
    place = place_of(features, span_y, span_x)
    box = place.box
    with torch.no_grad():
        query_feat = features(lr)
        y0, y1, x0, x1 = (2 * edge for edge in box)
        key_feat = features(lr[..., y0:y1, x0:x1])
    masks = [torch.rand(f[:, :1].shape, generator=generator) < 0.8 for f in (query_feat, key_feat)]
    masks[1][..., 0, 0] = True
    searched = sparse_match(query_feat, key_feat, *masks)
    shortcut = sparse_match(query_feat, key_feat, *masks, place=place)
    torch.testing.assert_close(shortcut.confidence, searched.confidence, rtol=0, atol=1e-9)
    cells = torch.arange(ROWS * COLS)
    kept = [mask.flatten().nonzero().squeeze(1) for mask in masks]
    twins, rest = find_twins(place, query_feat[0], kept[1], kept[0])
    assert torch.equal(shortcut.key_index[0, twins.query_cell], twins.key_cell)
    assert torch.equal(shortcut.key_index[0, rest], searched.key_index[0, rest])
    assert torch.equal(twins.query_cell.unique(), twins.query_cell)
    inside = place.interior(ROWS, COLS)
    y, x = cells // COLS, cells % COLS
    own = (y >= inside.y0) & (y < inside.y1) & (x >= inside.x0) & (x < inside.x1)
    own &= masks[0].flatten()
    keys = torch.zeros(ROWS, COLS, dtype=torch.bool)
    keys[box.y0 : box.y1, box.x0 : box.x1] = masks[1][0, 0]
    assert torch.equal(twins.query_cell, (own & keys.flatten()).nonzero().squeeze(1))


def test_a_cell_further_out_has_other_features(features):
    """The margin is not wider than it must be: one cell less, and features differ."""
    torch.manual_seed(0)
    lr = torch.rand(1, 3, 2 * ROWS, 2 * COLS, dtype=torch.float64)
    place = CenterPlace(Box(4, 24, 4, 26), -(-reach(features) // 2))
    with torch.no_grad():
        wide = features(lr)[..., 4:24, 4:26]
        alone = features(lr[..., 8:48, 8:52])
    apart = (wide - alone).abs().amax(1)[0]
    margin = place.reach
    assert apart[margin:-margin, margin:-margin].max() < 1e-12
    assert (apart[margin - 1, margin:-margin] > 1e-9).any()


def test_cells_without_signal_have_no_twin():
    """Their cosine is 0 in a search."""
    features = torch.zeros(1, 3, 16, 16)
    features[..., 8:, :] = torch.randn(3, 8, 16)
    place = CenterPlace(Box(0, 16, 0, 16), 4)
    shortcut = sparse_match(features, features, None, None, place=place)
    searched = sparse_match(features, features, None, None)
    torch.testing.assert_close(shortcut.confidence, searched.confidence)
    assert not shortcut.confidence[0, : 6 * 16].any()


def test_only_cells_that_are_left_are_searched(features, monkeypatch):
    """The whole picture as its own centre leaves nothing to search for."""
    lr = torch.rand(1, 3, 2 * ROWS, 2 * COLS, dtype=torch.float64)
    with torch.no_grad():
        found = features(lr)
    place = CenterPlace(Box(0, ROWS, 0, COLS), -(-reach(features) // 2))
    told = []
    monkeypatch.setattr("sddusr.model.matching.sparse_search._exact_search", None)
    match = sparse_match(found, found, None, None, told.append, place=place)
    assert torch.equal(match.key_index[0], torch.arange(ROWS * COLS))
    assert told == [1]
