import pytest
import torch

from sddusr.model.blocks import (
    CbamChannelGate,
    CbamSpatialGate,
    ChannelAttention,
    FrameMax,
    ResidualBlock,
    ResidualGroup,
    channel_max,
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("largest", "over"), [(channel_max, 1), (FrameMax(), (2, 3))])
def test_largest_values_and_their_gradients_are_those_of_amax(largest, over, memory_format, dtype):
    """All values differ, so there is nothing to divide."""
    values = torch.randperm(2 * 3 * 5 * 7).view(2, 3, 5, 7) - 100
    x = values.to(dtype).contiguous(memory_format=memory_format).requires_grad_()
    found, expected = largest(x), x.amax(over, keepdim=True)
    assert torch.equal(found, expected)
    towards = torch.randn(expected.shape).to(dtype)
    gradients = [torch.autograd.grad(out, x, towards)[0] for out in (found, expected)]
    assert torch.equal(*gradients)
    with torch.no_grad():
        assert torch.equal(largest(x), expected)


@pytest.mark.parametrize("largest", [channel_max, FrameMax()])
def test_of_equal_values_one_takes_the_gradient(largest):
    x = torch.ones(2, 3, 4, 5, requires_grad=True)
    largest(x).sum().backward()
    num_maxima = largest(x).numel()
    assert x.grad.sum() == num_maxima == x.grad.count_nonzero()


GATES = [[], [ChannelAttention(8, 2)], [CbamChannelGate(8, 2), CbamSpatialGate()]]


@pytest.mark.parametrize("gates", GATES)
def test_sums_in_place_change_neither_results_nor_what_others_read(gates):
    block = ResidualBlock(8, gates)
    group = ResidualGroup(8, [block])
    x = torch.randn(1, 8, 6, 5)
    kept_x, expected, of_group = x.clone(), block(x), group(x)
    with torch.no_grad():
        results = block(x), block.gated(x, block.before_gates(x)), group(x)
    for result, truth in zip(results, (expected, expected, of_group), strict=True):
        torch.testing.assert_close(result, truth)
    assert torch.equal(x, kept_x)
