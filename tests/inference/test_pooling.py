"""What pools over the frame can be measured in pieces and held."""

import pytest
import torch

from sddusr.inference.pooling import RunningPool, fixed_pools, measure_pools
from sddusr.model.blocks import CbamChannelGate, ChannelAttention, FrameMax, FrameMean


def test_held_gates_treat_a_tile_as_the_frame_does():
    torch.manual_seed(0)
    gate, frame = CbamChannelGate(8, 2), torch.randn(1, 8, 20, 12)
    running = RunningPool()
    for piece in (frame[:, :, :7], frame[:, :, 7:, :5], frame[:, :, 7:, 5:]):
        running.add(piece)
    with fixed_pools(running.values(gate)):
        tile = gate(frame[:, :, 3:9, 2:6])
    torch.testing.assert_close(tile, gate(frame)[:, :, 3:9, 2:6])
    assert not torch.allclose(tile, gate(frame[:, :, 3:9, 2:6]))


def test_nested_attentions_are_measured_over_all_windows_at_once():
    torch.manual_seed(0)
    gates = torch.nn.Sequential(ChannelAttention(4, 2), ChannelAttention(4, 2))
    frame = torch.randn(1, 4, 8, 12)
    windows = torch.cat([frame[..., :6], frame[..., 6:]])
    with measure_pools(gates, margin=0) as pools:
        pieces = gates(windows)
    torch.testing.assert_close(torch.cat([*pieces[:, None]], dim=3), gates(frame))
    with fixed_pools(pools):
        torch.testing.assert_close(gates(windows[1:]), gates(frame)[..., 6:])


def test_the_margin_of_a_window_is_not_measured():
    attention, window = ChannelAttention(4, 2), torch.randn(2, 4, 9, 9)
    framed = window.clone()
    framed[:, :, 0] = framed[..., -1] = 100
    with measure_pools(attention, margin=1) as pools:
        attention(framed)
    expected = window[:, :, 1:-1, 1:-1].mean((0, 2, 3), keepdim=True)
    torch.testing.assert_close(pools[attention.mean], expected)


def test_afterwards_the_pools_read_what_they_are_shown():
    pool, picture = FrameMean(), torch.randn(1, 3, 4, 4)
    with fixed_pools({pool: torch.zeros(1, 3, 1, 1)}):
        assert not pool(picture).any()
    torch.testing.assert_close(pool(picture), picture.mean((2, 3), keepdim=True))
    with measure_pools(FrameMax(), margin=0) as pools:
        pass
    assert not pools


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_mean_in_bfloat16_adds_in_float32(layout):
    """A running sum in bfloat16 would stop at 256."""
    picture = (1 + torch.rand(2, 3, 200, 300)).bfloat16().to(memory_format=layout)
    exact = picture.float().mean((2, 3), keepdim=True)
    torch.testing.assert_close(FrameMean()(picture).float(), exact, rtol=2**-8, atol=0)


def test_nothing_pooled_is_an_error():
    with pytest.raises(ValueError, match="nothing was pooled"):
        RunningPool().values(FrameMean())
