import pytest
import torch

from sddusr.inference.fused import fused_activations, has_fused_bfloat16
from sddusr.model.blocks import ResidualBlock, activation, conv3x3


@pytest.fixture(scope="module")
def stack() -> torch.nn.Sequential:
    torch.manual_seed(0)
    layers = [conv3x3(3, 8), torch.nn.ReLU(inplace=True), ResidualBlock(8), conv3x3(8, 4)]
    return torch.nn.Sequential(*layers, activation(), conv3x3(4, 2))


@torch.inference_mode()
@pytest.mark.skipif(not has_fused_bfloat16(), reason="oneDNN has no bfloat16 on this processor")
def test_convolution_and_activation_at_once_give_the_same(stack):
    picture = torch.randn(2, 3, 20, 14)
    with torch.autocast("cpu", torch.bfloat16):
        apart = stack(picture)
        with fused_activations(stack):
            assert stack[1](-torch.ones(1)) == -1  # done by the convolution before it
            at_once = stack(picture)
    assert at_once.dtype == torch.bfloat16
    assert (at_once - apart).abs().max() < 0.02 * apart.abs().max()
    assert apart.std() > 0.01


@torch.inference_mode()
def test_a_part_that_computes_in_float32_stays_exact(stack):
    picture = torch.randn(1, 3, 9, 9)
    exact = stack(picture)
    with (
        torch.autocast("cpu", torch.bfloat16),
        fused_activations(stack),
        torch.autocast("cpu", enabled=False),
    ):
        assert torch.equal(stack(picture), exact)


def test_outside_nothing_is_left_of_it(stack):
    with torch.autocast("cpu", torch.bfloat16), fused_activations(stack):
        pass
    assert not any("forward" in vars(module) for module in stack.modules())
    with fused_activations(stack):  # without autocast
        assert not any("forward" in vars(module) for module in stack.modules())
