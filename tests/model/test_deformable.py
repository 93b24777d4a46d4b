import pytest
import torch
from einops import rearrange
from torchvision.ops import deform_conv2d

from sddusr.model.deformable import (
    Tap,
    composed_deform_conv2d,
    exact_planes,
    joined_deform_conv2d,
    operator_deform_conv2d,
)
from tests.tunings import tuned


def looking(y, x, gate):
    """Taps from maps whose first axis counts them."""
    return lambda tap, rows: Tap(*(maps[tap][:, :, rows] for maps in (y, x, gate)))


def composed(picture, y, x, gate, weight, bias):
    groups, *size = gate.shape[2:]
    look = looking(y, x, gate)
    return composed_deform_conv2d(picture, look, weight, bias, num_groups=groups, size=tuple(size))


def operator_inputs(y, x, gate):
    offset = rearrange([y, x], "yx t b g h w -> b (g t yx) h w")
    return offset, rearrange(gate, "t b g h w -> b (g t) h w")


def torchvisions(picture, y, x, gate, weight, bias):
    offset, mask = operator_inputs(y, x, gate)
    return deform_conv2d(picture, offset, weight, bias, padding=(1, 1), mask=mask)


def test_composed_deform_conv_is_torchvisions_operator():
    torch.manual_seed(0)
    maps = (9, 2, 2, 7, 9)  # taps, batch, groups
    shapes = [(2, 4, 7, 9), maps, maps, maps, (6, 4, 3, 3), (6,)]
    inputs = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    inputs[1] *= 4  # far outside too
    inputs[2] *= 4
    results = []
    for operator in (composed, torchvisions):
        leaves = [t.clone().requires_grad_() for t in inputs]
        output = operator(*leaves)
        towards = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)
        results.append((output, torch.autograd.grad(output, leaves, towards)))
    torch.testing.assert_close(results[0], results[1])


def test_strips_of_a_picture_meet_without_a_seam():
    """Without gradients the sum is made strip by strip; 150 rows are three of them."""
    torch.manual_seed(0)
    picture = torch.randn(1, 4, 150, 5).double()
    y, x, gate = (4 * torch.randn(9, 1, 2, 150, 5).double() for _ in range(3))
    weight = torch.randn(6, 4, 3, 3).double()
    with torch.no_grad():
        ours, operators = (
            operator(picture, y, x, gate, weight, None) for operator in (composed, torchvisions)
        )
    torch.testing.assert_close(ours, operators)


@pytest.mark.parametrize("corner", [(0, 0), (2, 3)])
def test_all_taps_at_once_are_the_taps_in_turn(corner):
    torch.manual_seed(0)
    picture = torch.randn(2, 4, 12, 14).double()
    y, x, gate = (4 * torch.randn(9, 2, 2, 7, 9).double() for _ in range(3))
    weight, bias = torch.randn(6, 4, 3, 3).double(), torch.randn(6).double()
    look = looking(y, x, gate)
    wanted = composed_deform_conv2d(
        picture, look, weight, bias, num_groups=2, size=(7, 9), corner=corner
    )
    taps = operator_inputs(y, x, gate)
    made = joined_deform_conv2d(picture, *taps, weight, bias, corner=corner)
    torch.testing.assert_close(made, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_planes_hold_the_same_values_and_pass_gradients_on(dtype):
    x = torch.randn(2, 3, 7, 10).to(dtype, memory_format=torch.channels_last).requires_grad_()
    with tuned(plane_px=20):  # strips of two rows and a last one of one
        planes = exact_planes(x)
    assert planes.is_contiguous()
    assert planes.dtype == torch.float32
    assert torch.equal(planes, x.float())
    towards = torch.randn(2, 3, 7, 10).to(dtype)
    assert torch.equal(torch.autograd.grad(planes, x, towards.float())[0], towards)


def test_the_operator_knows_parts_of_a_picture_too():
    torch.manual_seed(0)
    picture = torch.randn(2, 4, 12, 15).double()
    y, x, gate = (4 * torch.randn(9, 2, 2, 5, 6).double() for _ in range(3))
    weight, bias = torch.randn(6, 4, 3, 3).double(), torch.randn(6).double()
    part = composed_deform_conv2d(
        picture, looking(y, x, gate), weight, bias, num_groups=2, size=(5, 6), corner=(4, 7)
    )
    found = operator_deform_conv2d(
        picture, *operator_inputs(y, x, gate), weight, bias, corner=(4, 7)
    )
    torch.testing.assert_close(found, part)
