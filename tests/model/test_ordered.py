"""Sampling and padding in a fixed order are the ordinary ones."""

import pytest
import torch
import torch.nn.functional as F

from sddusr.model.ordered import ordered_gradients, reflect_pad, sample_bilinear


def both(function, *inputs):
    """Result and gradients with torch's switch off and on."""
    found = []
    for enabled in (False, True):
        leaves = [x.clone().requires_grad_() for x in inputs]
        with ordered_gradients(enabled):
            output = function(*leaves)
            towards = torch.linspace(-1, 1, output.numel(), dtype=output.dtype)
            grads = torch.autograd.grad(output, leaves, towards.view_as(output))
        found.append((output, grads))
    return found


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_ordered_sampling_is_grid_sample(padding_mode, align_corners):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    grid = 1.3 * torch.randn(2, 5, 4, 2, dtype=torch.float64)
    grid[0, 0] = torch.tensor([[-1, -1], [1, 1], [-1, 0.2], [0, 0]])  # on the border, on a pixel

    def sample(x, grid):
        return sample_bilinear(x, grid, padding_mode=padding_mode, align_corners=align_corners)

    plain, ordered = both(sample, x, grid)
    torch.testing.assert_close(ordered, plain)
    truth = F.grid_sample(x, grid, padding_mode=padding_mode, align_corners=align_corners)
    assert torch.equal(plain[0], truth)


def test_ordered_reflection_is_torchs():
    plain, ordered = both(reflect_pad, torch.randn(2, 3, 4, 5, dtype=torch.float64))
    torch.testing.assert_close(ordered, plain)


def test_the_switch_is_as_before_afterwards():
    with ordered_gradients(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
