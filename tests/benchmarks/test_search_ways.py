"""The benchmark of searches: its pictures do not repeat, and each row is what it says."""

from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import search
import torch

from sddusr.config import MaskConfig
from sddusr.model.sddusr import SDDuSR
from tests.tiny import TINY


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    photos = [np.random.default_rng(0).integers(0, 256, (90, 110, 3)).astype(np.uint8)]
    dense = replace(TINY, mask=MaskConfig(enabled=False))
    return SDDuSR(dense).eval(), search.make_pair(photos, 64, 96)


def test_the_same_seed_makes_the_same_picture_and_tiles_differ():
    photos = [np.random.default_rng(0).integers(0, 256, (90, 110, 3)).astype(np.uint8)]
    made = search.mosaic(photos, 1500, 2048, seed=0)
    assert np.array_equal(made, search.mosaic(photos, 1500, 2048, seed=0))
    left, right = made[:1024, :1024].astype(int), made[:1024, 1024:].astype(int)
    assert np.abs(left - right).mean() > 5


@pytest.mark.parametrize("megapixels", [1.0, 0.0])
def test_a_row_for_each_way_with_and_without_a_sample(case, megapixels):
    given = Namespace(exact_megapixels=megapixels, no_output=False)
    rows = list(search.compare(*case, given))
    assert [row.name for row in rows] == ["fast@64x96", "auto@64x96"]
    for row in rows:
        assert row.exact_is_sampled == (megapixels == 0)
        assert row.confidence_ratio == pytest.approx(1, abs=0.02)
        assert row.speedup == pytest.approx(row.exact_seconds / row.seconds)
    assert rows[0].guard_ratio is not None
    assert rows[1].guard_ratio is None  # so small a picture is searched exactly
