import pytest
import torch
from torch import nn

from sddusr.config import AlignmentConfig
from sddusr.model.alignment import Alignment, SpyNet


def test_a_part_is_aligned_as_in_the_whole():
    """Flow and offsets point out of the part, into the rest of Ref."""
    torch.manual_seed(0)
    config = AlignmentConfig(
        spynet_weights="none", spynet_levels=2, spynet_dims=(4, 4, 4, 4), num_groups=2
    )
    align = Alignment(4, config)
    nn.init.normal_(align.offset_tail.weight)
    center_feat, ref_feat = torch.randn(2, 1, 4, 24, 20)
    flow = 5 * torch.randn(1, 2, 24, 20)
    whole = align.align(flow, center_feat, ref_feat)
    y, x, reach = 7, 4, 3
    part = align.align(flow[:, :, y:, x:], center_feat[:, :, y:, x:], ref_feat, (y, x))
    torch.testing.assert_close(
        part[:, :, reach:, reach:], whole[:, :, y + reach :, x + reach :], rtol=1e-4, atol=1e-4
    )


def test_alignment_starts_as_refs_own_feature():
    """No flow, no offsets, gates at one half, and a kernel that makes up for them."""
    torch.manual_seed(0)
    config = AlignmentConfig(
        spynet_weights="none", spynet_levels=2, spynet_dims=(4, 4, 4, 4), num_groups=2
    )
    align = Alignment(4, config)
    center, ref = torch.rand(1, 3, 8, 6), torch.rand(1, 3, 16, 12)
    center_feat, ref_feat = torch.randn(2, 1, 4, 16, 12).unbind(0)
    torch.testing.assert_close(
        align(center, ref, center_feat, ref_feat), ref_feat, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("names", ["basic_module.{}.basic_module.{}.conv", "net.{}.{}", "l{}.c{}"])
def test_spynet_reads_the_ports_namings(tmp_path, names):
    torch.manual_seed(0)
    spynet = SpyNet(6, (32, 64, 32, 16))
    step = 2 if "net" in names else 1  # one port numbers the activations too
    state = {}
    for i, level in enumerate(spynet.levels):
        for j, conv in enumerate(level[::2]):
            state[names.format(i, j * step) + ".weight"] = torch.randn_like(conv.weight)
            state[names.format(i, j * step) + ".bias"] = torch.randn_like(conv.bias)
    torch.save(state, tmp_path / "spynet.pth")
    spynet.load(str(tmp_path / "spynet.pth"))
    loaded = torch.cat([p.flatten() for p in spynet.levels[5][4].parameters()])
    expected = [state[names.format(5, 2 * step) + kind] for kind in (".weight", ".bias")]
    torch.testing.assert_close(loaded, torch.cat([t.flatten() for t in expected]))


def test_spynet_learns_a_shift():
    torch.manual_seed(0)
    spynet = SpyNet(2, (8, 8, 8, 8))
    optimizer = torch.optim.Adam(spynet.parameters(), lr=3e-3)
    picture = torch.nn.functional.interpolate(
        torch.rand(2, 3, 12, 12), scale_factor=4, mode="bicubic"
    )
    errors = []
    for _ in range(60):
        flow = spynet(picture, picture.roll(2, dims=3))
        error = (flow[..., 8:-8, 8:-8] - torch.tensor([2.0, 0.0]).view(1, 2, 1, 1)).abs().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.3 * errors[0]


def test_a_flow_that_ran_off_is_cut():
    config = AlignmentConfig(
        spynet_weights="none",
        spynet_levels=2,
        spynet_dims=(4, 4, 4, 4),
        num_groups=2,
        max_flow_px=9.0,
    )
    align = Alignment(4, config)
    align.spynet.levels[-1][-1].bias.data = torch.tensor([1e5, -2.0])
    flow = align.flow(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 16, 16))
    torch.testing.assert_close(flow, torch.tensor([9.0, -4.0]).view(1, 2, 1, 1).expand_as(flow))
