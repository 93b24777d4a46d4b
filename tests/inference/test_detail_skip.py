"""Whole pictures with a detail skip: tiles, boxes at any phase, trust and no Ref."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sddusr.config import DEMO, DetailConfig
from sddusr.geometry.box import Box
from sddusr.inference import super_resolve, to_tensor
from sddusr.inference.memory import Plan
from sddusr.model.sddusr import SDDuSR
from tests.conftest import textured

LR = textured(88, 112, 1)
TILED = [Plan(112, 32, 32, torch.float32, kept) for kept in (0, 1, 2)]
ON_GRID, ODD = Box(40, 136, 60, 156), Box(41, 138, 59, 158)


@pytest.fixture(scope="module", params=[True, False], ids=["learned", "confidence"])
def model(request) -> SDDuSR:
    torch.manual_seed(0)
    detail = DetailConfig(enabled=True, trust=request.param, replaced_residual=0.88)
    config = replace(DEMO.model, detail=detail)
    net = SDDuSR(config).eval()
    for parameter in net.parameters():
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return net


def ref_of(box: Box) -> np.ndarray:
    return textured(box.height, box.width, 2)


def test_a_picture_is_what_the_network_makes_of_it_in_one_piece(model):
    made = super_resolve(model, LR, ref_of(ON_GRID), ON_GRID)
    lr, center, ref = (
        to_tensor(np.ascontiguousarray(x))[None] for x in (LR, LR[20:68, 30:78], ref_of(ON_GRID))
    )
    with torch.inference_mode():
        out = model(lr, center, ref, center_offset=torch.tensor([[40, 60]]))
    assert np.abs(made.sr - out.sr[0].permute(1, 2, 0).numpy()).max() < 1e-6
    assert made.trust.mean() == pytest.approx(float(out.detail.trust.mean()), abs=1e-5)


@pytest.mark.parametrize("box", [ON_GRID, ODD])
@pytest.mark.parametrize("plan", TILED)
def test_tiles_equal_the_whole(model, box, plan):
    whole = super_resolve(model, LR, ref_of(box), box)
    tiled = super_resolve(model, LR, ref_of(box), box, plan=plan)
    assert np.abs(whole.sr - tiled.sr).max() < 1e-5
    assert np.abs(whole.trust - tiled.trust).max() < 1e-5


def test_detail_covers_the_box_as_it_was_given(model):
    """Also the strip between the box and its snapped part, where nothing can be matched."""
    box, ref = ODD, ref_of(ODD)
    other = ref.copy()
    other[0] = 255 - other[0]  # the row above the snapped box
    first, second = (super_resolve(model, LR, r, box, trust=1.0).sr for r in (ref, other))
    changed = np.abs(first - second).max(axis=(1, 2)) > 1e-4
    assert changed[box.y0]


def test_no_trust_is_no_ref(model):
    ref = ref_of(ON_GRID)
    without, distrusted = (
        super_resolve(model, LR, r, ON_GRID, **how)
        for r, how in ((ref, {"without_ref": True}), (255 - ref, {"trust": 0.0}))
    )
    np.testing.assert_array_equal(without.sr, distrusted.sr)
    assert without.without_ref
    assert without.trust is None


def test_less_trust_is_less_detail(model):
    ref = ref_of(ON_GRID)
    full, half = (super_resolve(model, LR, ref, ON_GRID, trust=t).trust for t in (1.0, 0.5))
    if model.trust.learned:
        assert half.mean() < full.mean()
    else:
        np.testing.assert_allclose(half, full / 2, rtol=1e-5)


def test_a_trust_beyond_one_is_refused(model):
    with pytest.raises(ValueError, match=r"trust is 1\.5, need 0 to 1"):
        super_resolve(model, LR, ref_of(ON_GRID), ON_GRID, trust=1.5)


def test_a_network_without_a_detail_skip_has_no_trust_to_scale():
    plain = SDDuSR(replace(DEMO.model, detail=DetailConfig())).eval()
    with pytest.raises(ValueError, match=r"trust is 0\.5, the network has no detail skip"):
        super_resolve(plain, LR, ref_of(ON_GRID), ON_GRID, trust=0.5)
    assert super_resolve(plain, LR, ref_of(ON_GRID), ON_GRID, trust=0.0).without_ref


def test_little_memory_keeps_the_detail_nearly_as_it_is(model):
    whole = super_resolve(model, LR, ref_of(ODD), ODD)
    half = super_resolve(model, LR, ref_of(ODD), ODD, plan=Plan(112, 32, 32, torch.bfloat16, 0))
    assert np.abs(whole.sr - half.sr).mean() < 5e-3
