"""What is said of an ablation's scores."""

import numpy as np
import pandas as pd
import pytest
from ablation_parts.evidence import all_gains, gain, gains_figure, gains_table, means_table
from ablation_parts.variants import CONSTANT, variants

from sddusr.config import PAPER
from sddusr.evaluation.bootstrap import crossed_bootstrap

COST = {"seconds": 1.0, "num_parameters": 1000, "center_psnr_from_ref": 0.2}
VARIANTS = [each for each in variants(PAPER, "parts", (16,)) if each.name != CONSTANT]
NAMES = ("bicubic", *(each.name for each in VARIANTS))


def scores(num_pictures: int = 5, num_seeds: int = 3) -> pd.DataFrame:
    """Each variant 0.1 dB above the one before, pictures and seeds far apart from each other."""
    rng, rows = np.random.default_rng(0), []
    pictures, seeds = rng.normal(0, 3, num_pictures), rng.normal(0, 1, num_seeds)
    for step, name in enumerate(NAMES):
        for picture in range(num_pictures):
            for seed in range(num_seeds):
                psnr = 28 + 0.1 * step + pictures[picture] + seeds[seed]
                row = {f"{region}_psnr": psnr for region in ("full", "center", "corner")}
                row |= {f"{region}_ssim": 0.8 for region in ("full", "center", "corner")}
                about = {"test": "photos", "id": str(picture), "variant": name, "seed": seed}
                rest = {"full_lpips": None, "kept_queries": 0.5, "kept_keys": 0.25}
                rows.append(about | row | rest | COST)
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_a_gain_is_paired_over_pictures_and_seeds():
    found = gain(scores(), "photos", "sfm", "baseline", "full_psnr")
    assert found is not None
    assert found.interval == pytest.approx((0.1, 0.1, 0.1))
    assert found.by_seed == pytest.approx((0.1, 0.1, 0.1))


def test_only_common_seeds_and_pictures_are_compared():
    table = scores()
    table = table[~((table["variant"] == "sfm") & (table["seed"] == 2))]
    table = table[~((table["variant"] == "baseline") & (table["id"] == "4"))]
    found = gain(table, "photos", "sfm", "baseline", "full_psnr")
    assert found is not None
    assert len(found.by_seed) == 2
    assert found.interval.mean == pytest.approx(0.1)


def test_a_region_that_no_picture_has_gives_no_gain():
    table = scores().assign(corner_psnr=np.nan)
    assert gain(table, "photos", "sfm", "baseline", "corner_psnr") is None
    assert "corner_psnr" not in {each.column for each in all_gains(table, VARIANTS)}


def test_tables_and_figure_hold_every_network():
    table = scores()
    gains = all_gains(table, VARIANTS)
    text = means_table(table, VARIANTS) + gains_table(gains)
    assert all(f"| {name} |" in text for name in NAMES)
    assert "+0.10 [+0.10, +0.10]" in text
    figure = gains_figure(gains, "baseline")
    assert figure is not None
    assert figure.startswith(b"\x89PNG")
    assert gains_figure(gains, "nobody") is None


def test_a_crossed_interval_knows_that_runs_differ():
    """Many pictures that agree within a run say nothing about the next run."""
    rng = np.random.default_rng(1)
    by_run = np.array([0.0, 0.3, -0.3, 0.2])
    differences = by_run + rng.normal(0, 0.01, (200, 4))
    mean, low, high = crossed_bootstrap(differences, seed=0)
    assert low < -0.15 < mean < 0.25 < high
    assert crossed_bootstrap(differences, seed=0) == (mean, low, high)


def test_a_crossed_interval_of_one_run_is_that_of_its_pictures():
    differences = np.random.default_rng(2).normal(1, 1, (50, 1))
    mean, low, high = crossed_bootstrap(differences, seed=0)
    half = 1.96 * differences.std() / np.sqrt(50)
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.05)


@pytest.mark.parametrize("differences", [np.empty((0, 3)), np.array([[np.nan]])])
def test_no_interval_of_nothing(differences):
    with pytest.raises(ValueError, match="need some"):
        crossed_bootstrap(differences, seed=0)
