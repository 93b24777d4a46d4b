"""The runtime without PyTorch makes the network's picture, whatever runs its graphs."""

import numpy as np
import pytest
import torch

from sddusr.geometry.box import Box
from sddusr.inference import super_resolve
from sddusr.inference.memory import Plan
from sddusr.portable.memory import PortablePlan, plan_memory
from sddusr.portable.upscale import super_resolve as run_package
from tests.conftest import textured
from tests.export.exporting import seeded, small
from tests.portable.pictures import BOX, LR, REF, check_agreement
from tests.portable.torch_package import TorchPackage


def pair(preset):
    config = small(preset)
    model = seeded(config)
    return model, TorchPackage(model, config)


@pytest.mark.parametrize(
    ("preset", "tile_px"),
    [("demo", 78), ("demo", 32), ("compact", 32), ("paper", 32), ("sfm", 32), ("baseline", 32)],
)
def test_a_package_makes_the_networks_picture(preset, tile_px):
    model, package = pair(preset)
    plan = Plan(78, tile_px, 64, torch.float32, kept_maps=0)
    wanted = super_resolve(model, LR, REF, BOX, plan=plan, matching="exact")
    shares = []
    portable = PortablePlan(78, tile_px, 24)
    made = run_package(package, LR, REF, BOX, plan=portable, progress=shares.append)
    check_agreement(made.sr, wanted.sr)
    assert made.box == wanted.box
    assert (made.matches.key_index == wanted.matches.key_index).mean() > 0.99
    assert (made.matches.query_mask is None) == (wanted.matches.query_mask is None)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert (made.trust is None) == (wanted.trust is None)
    if made.trust is not None:
        np.testing.assert_allclose(made.trust, wanted.trust, atol=1e-3)
        np.testing.assert_allclose(made.detail_energy, wanted.detail_energy, atol=1e-5)


@pytest.mark.parametrize("preset", ["demo", "paper"])
def test_without_ref(preset):
    model, package = pair(preset)
    wanted = super_resolve(model, LR, REF, BOX, without_ref=True)
    made = run_package(package, LR, REF, BOX, without_ref=True)
    check_agreement(made.sr, wanted.sr)
    assert made.without_ref
    assert made.trust is None


def test_half_the_trust_and_rounding():
    model, package = pair("demo")
    wanted = super_resolve(model, LR, REF, BOX, matching="exact", trust=0.5, dtype=np.uint8)
    made = run_package(package, LR, REF, BOX, trust=0.5, dtype=np.uint8)
    assert made.sr.dtype == np.uint8
    check_agreement(made.sr / 255, wanted.sr / 255)


@pytest.mark.parametrize("preset", [pytest.param("demo", marks=pytest.mark.long), "paper"])
def test_regions_with_pools_of_a_sample_and_odd_sides(preset):
    lr, ref = textured(99, 103, seed=5), textured(80, 80, seed=6)
    box = Box(60, 140, 60, 140)
    model, package = pair(preset)
    plan = Plan(64, 64, 64, torch.float32, kept_maps=0)
    wanted = super_resolve(model, lr, ref, box, plan=plan, matching="exact")
    made = run_package(package, lr, ref, box, plan=PortablePlan(64, 64, 64))
    assert made.sr.shape == (198, 206, 3)
    check_agreement(made.sr, wanted.sr)


def test_the_smallest_ref():
    box = Box(41, 52, 41, 53)
    model, package = pair("demo")
    ref = REF[: box.height, : box.width]
    wanted = super_resolve(model, LR, ref, box, matching="exact")
    check_agreement(run_package(package, LR, ref, box).sr, wanted.sr)


def test_less_memory_is_smaller_pieces_until_nothing_fits():
    _, package = pair("demo")
    shapes = (3000, 4000), (1500, 2000)
    held = 10**9
    plans = [
        plan_memory(package, *shapes, 10**8, limit, held=held)
        for limit in (held + 40 * 10**9, held + 2 * 10**9)
    ]
    assert plans[0].region_px == 4000
    assert plans[1].region_px < 4000
    assert all(plan.num_bytes <= limit for plan, limit in zip(plans, (40e9, 2e9), strict=True))
    with pytest.raises(ValueError, match="even in the smallest pieces"):
        plan_memory(package, *shapes, 10**8, held + 10**8, held=held)


def test_what_cannot_be_is_one_line():
    _, package = pair("paper")
    with pytest.raises(ValueError, match="no detail skip; give 0 or 1"):
        run_package(package, LR, REF, BOX, trust=0.5)
    with pytest.raises(ValueError, match="need 0 to 1"):
        run_package(package, LR, REF, BOX, trust=2.0)
