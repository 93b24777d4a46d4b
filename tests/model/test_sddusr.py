from dataclasses import replace

import pytest
import torch

from sddusr.config import (
    BASELINE,
    DEMO,
    PAPER,
    SFM,
)
from sddusr.imaging.resize import bicubic_up
from sddusr.model.matching.transfer import CELL
from sddusr.model.sddusr import SDDuSR, num_parameters
from tests.tiny import TINY, pictures, without_zero_starts


def test_paper_has_the_papers_number_of_parameters():
    assert 6.065e6 <= num_parameters(SDDuSR(PAPER.model)) <= 6.075e6


@pytest.mark.parametrize(
    "preset", [PAPER, DEMO, BASELINE, SFM], ids=["paper", "demo", "baseline", "sfm"]
)
def test_every_parameter_gets_a_gradient(preset):
    torch.manual_seed(0)
    model = without_zero_starts(SDDuSR(preset.model)).train()
    output = model(*pictures(1, (48, 48), (48, 48)), torch.tensor([1]), torch.tensor([[8, 0]]))
    (output.sr - torch.rand_like(output.sr)).abs().mean().backward()
    norms = {name: float(p.grad.norm()) for name, p in model.named_parameters()}
    rounding = 1e-8 * max(norms.values())  # what cancels exactly still leaves this much
    assert [name for name, norm in norms.items() if norm < rounding] == []


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("dictionary", [True, False])
def test_any_even_sizes_give_a_picture_twice_as_large(training, mask, dictionary):
    config = replace(
        TINY,
        mask=replace(TINY.mask, enabled=mask),
        dictionary=replace(TINY.dictionary, enabled=dictionary),
    )
    output = SDDuSR(config).train(training)(*pictures())
    assert output.sr.shape == (2, 3, 32, 40)
    assert (output.query_mask is not None) == mask
    assert (output.dict_feat is not None) == dictionary


def test_demo_without_ref_starts_at_the_bicubic_picture():
    lr, center, ref = pictures(1, (48, 48), (48, 48))
    model = SDDuSR(DEMO.model).eval()
    absent = {"center_offset": torch.tensor([[0, 0]]), "has_ref": torch.tensor([False])}
    sr = model(lr, center, ref, **absent).sr
    torch.testing.assert_close(sr, bicubic_up(lr))


def test_samples_of_a_batch_do_not_see_each_other():
    model = without_zero_starts(SDDuSR(TINY)).eval()
    both = model(*pictures()).sr
    alone = [model(*(p[i : i + 1] for p in pictures())).sr for i in range(2)]
    torch.testing.assert_close(both, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_masked_cells_carry_no_confidence():
    output = SDDuSR(TINY).train()(*pictures(), torch.tensor([1, 2]))
    assert output.query_mask is not None
    assert not output.confidence[output.query_mask == 0].any()
    assert output.confidence.shape[2] * CELL == output.sr.shape[2]


@pytest.mark.parametrize(
    ("which", "size", "message"),
    [(0, (15, 20), "lr is 15x20, need even sides"), (2, (16, 26), "ref is 16x26, need 16x24")],
)
def test_sizes_that_do_not_fit_are_named(which, size, message):
    inputs = pictures()
    inputs[which] = torch.rand(2, 3, *size)
    with pytest.raises(ValueError, match=message):
        SDDuSR(TINY)(*inputs)


@pytest.mark.parametrize("part", ["vgg", "spynet"])
def test_missing_weights_are_named_with_both_ways_to_get_them(part):
    matching = replace(TINY.matching, vgg_weights="/nowhere/vgg16.pth" if part == "vgg" else "none")
    alignment = replace(
        TINY.alignment, spynet_weights="none" if part == "vgg" else "/nowhere/spynet.pth"
    )
    config = replace(TINY, matching=matching, alignment=alignment)
    with pytest.raises(FileNotFoundError, match=r"no file /nowhere.*path.*by name"):
        SDDuSR(config).load_published_weights(config)


def test_vgg_weights_of_torchvision_load_from_a_path(tmp_path):
    from torchvision.models import vgg16

    torch.manual_seed(0)
    state = {k: v for k, v in vgg16(weights=None).state_dict().items() if k.startswith("features")}
    torch.save(state, tmp_path / "vgg16.pth")
    features = SDDuSR(PAPER.model).matching.features
    features.load_vgg(str(tmp_path / "vgg16.pth"))
    for position in ("0", "2", "5", "7"):
        assert torch.equal(
            features.vgg.state_dict()[f"{position}.weight"], state[f"features.{position}.weight"]
        )
    with pytest.raises(ValueError, match=r"do not fit --model\.matching\.vgg-dims 4 8"):
        SDDuSR(TINY).matching.features.load_vgg(str(tmp_path / "vgg16.pth"))
