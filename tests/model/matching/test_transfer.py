import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st

from sddusr.model.matching.transfer import (
    CELL,
    PATCH,
    CellBank,
    transfer_patches,
    warp_by_flow,
    windows_of_fold,
    windows_of_source,
)
from sddusr.model.tuning import CPU, GPU
from tests.tunings import tuned

cells = st.integers(2, 7)


def literal_patches(source):
    """P^Ref of Eq. 5."""
    padded = F.pad(source, (CELL,) * 4, mode="replicate")
    return F.unfold(padded, kernel_size=PATCH, stride=CELL)


def literal_transfer(source, key_index, weight):
    """Eq. 5 as written: every patch unfolded, gathered, masked and folded."""
    size = tuple(CELL * side for side in weight.shape[2:])
    grid = {"kernel_size": PATCH, "stride": CELL, "padding": CELL}
    patches = literal_patches(source)
    index = key_index.unsqueeze(1).expand(-1, patches.shape[1], -1)
    moved = patches.gather(2, index) * weight.flatten(2)
    return F.fold(moved, size, **grid) / F.fold(torch.ones_like(moved), size, **grid)


@given(hq=cells, wq=cells, hk=cells, wk=cells, seed=st.integers(0, 999))
def test_gathered_cells_equal_the_literal_fold(hq, wq, hk, wk, seed):
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(2, 3, CELL * hk, CELL * wk, generator=generator, dtype=torch.float64)
    index = torch.randint(hk * wk, (2, hq * wq), generator=generator)
    weight = torch.randint(2, (2, 1, hq, wq), generator=generator).double()
    inputs = [(t.clone().requires_grad_(), w.clone().requires_grad_())
              for t, w in [(source, weight)] * 2]  # fmt: skip
    ours = transfer_patches(inputs[0][0], index, inputs[0][1])
    truth = literal_transfer(inputs[1][0], index, inputs[1][1])
    torch.testing.assert_close(ours, truth)
    towards = torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs[0], towards),
        torch.autograd.grad(truth, inputs[1], towards),
    )


@pytest.mark.parametrize("strip", [1, 11, 24])
def test_strips_do_not_change_what_is_moved(strip):
    source, index = torch.randn(2, 3, 16, 20), torch.randint(20, (2, 30))
    weight = torch.rand(2, 1, 6, 5)
    moved, gradient = [], []
    for cells_at_once in (2 * 30, strip):
        given_source = source.clone().requires_grad_()
        with tuned(transfer_cells=cells_at_once):
            moved.append(transfer_patches(given_source, index, weight))
        gradient += torch.autograd.grad(moved[-1].square().sum(), given_source)
    torch.testing.assert_close(*moved)
    torch.testing.assert_close(*gradient)


@given(rows=cells, cols=cells, cut_y=st.integers(0, 7), cut_x=st.integers(0, 7))
def test_a_bank_filled_in_pieces_is_the_bank_of_the_whole(rows, cols, cut_y, cut_x):
    source = torch.randn(1, 3, CELL * rows, CELL * cols)
    cut_y, cut_x = min(cut_y, rows), min(cut_x, cols)
    bank = CellBank.empty(rows, cols, 3, like=source)
    for y0, y1 in ((0, cut_y), (cut_y, rows)):
        for x0, x1 in ((0, cut_x), (cut_x, cols)):
            piece = source[:, :, CELL * y0 : CELL * y1, CELL * x0 : CELL * x1]
            bank.put(piece, y0, x0)
    assert torch.equal(bank.close().cells, CellBank.of(source).cells)


@given(rows=cells, cols=cells)
def test_identity_matching_returns_its_input_to_rounding(rows, cols):
    source = torch.randn(1, 5, CELL * rows, CELL * cols)
    identity = torch.arange(rows * cols).unsqueeze(0)
    warped = transfer_patches(source, identity, torch.ones(1, 1, rows, cols))
    torch.testing.assert_close(warped, source, rtol=0, atol=1e-6)


def test_a_cell_is_zero_where_it_and_its_neighbours_are_masked():
    weight = torch.zeros(1, 1, 6, 6)
    weight[..., :2] = 1
    warped = transfer_patches(torch.rand(1, 2, 24, 24) + 1, torch.zeros(1, 36).long(), weight)
    assert (warped[..., : 2 * CELL] > 0).all()
    assert (warped[..., 3 * CELL :] == 0).all()


def as_unfolded(windows):
    """Windows in the order of `F.unfold`."""
    return rearrange(windows, "hq wq y (x c) -> 1 (c y x) (hq wq)", x=PATCH)


def test_windows_of_a_fold_are_its_transpose():
    moved = torch.randn(1, 2 * PATCH**2, 20, dtype=torch.float64)
    grid = {"kernel_size": PATCH, "stride": CELL, "padding": CELL}
    folded = F.fold(moved, (16, 20), **grid) / F.fold(torch.ones_like(moved), (16, 20), **grid)
    other = torch.randn_like(folded)
    windows = as_unfolded(windows_of_fold(other, torch.float64)[0])
    torch.testing.assert_close((folded * other).sum(), (moved * windows).sum())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_windows_of_a_source_are_the_patches_of_eq_5(memory_format):
    source = torch.randn(1, 3, 16, 20).contiguous(memory_format=memory_format)
    assert torch.equal(as_unfolded(windows_of_source(source)[0]), literal_patches(source))


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (2, -1), (-3, 1)])
def test_a_whole_pixel_flow_moves_the_picture(dy, dx):
    picture = torch.rand(1, 2, 12, 14)
    flow = torch.tensor([dx, dy]).float().view(1, 2, 1, 1).expand(1, 2, 12, 14)
    moved = warp_by_flow(picture, flow)[..., 3:-3, 3:-3]
    expected = picture.roll((-dy, -dx), dims=(2, 3))[..., 3:-3, 3:-3]
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)


def test_groups_of_channels_are_warped_as_each_channel_is():
    picture, flow = torch.rand(2, 2 * CPU.warp_channels, 9, 7), 3 * torch.randn(2, 2, 9, 7)
    channels = [warp_by_flow(channel, flow) for channel in picture.split(1, dim=1)]
    for device in (CPU, GPU):
        with tuned(device):
            assert torch.equal(warp_by_flow(picture, flow), torch.cat(channels, dim=1))
