"""Every work that is measured over its size can be made and done."""

import growth
import preprocess
import pytest


@pytest.mark.parametrize("work_of", [growth.dense_match, growth.whole_picture])
def test_a_small_picture_is_worked_on(work_of):
    work_of(0.01)()()


def test_a_few_pictures_become_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(preprocess, "HR_PX", 256)
    growth.pictures_to_shards(str(tmp_path), 2)()()
    assert list(tmp_path.rglob("*.parquet"))


def test_the_power_is_fitted_over_all_but_the_smallest():
    costs = [
        growth.Cost("work", size, seconds, 1.0)
        for size, seconds in ((1, 100.0), (2, 4.0), (4, 16.0), (8, 64.0))
    ]
    assert growth.exponent(costs, "seconds") == pytest.approx(2)
    assert growth.exponent(costs, "peak_mb") == pytest.approx(0)
