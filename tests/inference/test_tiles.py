"""Tiles cover a frame once, and a halo of a stack's reach makes them equal to the whole."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sddusr.geometry.box import Box
from sddusr.inference.tiles import grown, in_tiles, reach, scaled, tiles, within
from sddusr.model.sddusr import SDDuSR
from tests.tiny import TINY, without_zero_starts

sides = st.integers(1, 40)


@given(rows=sides, cols=sides, side=st.integers(1, 12), unit=st.sampled_from([1, 2, 4]))
def test_tiles_cover_the_frame_once(rows, cols, side, unit):
    frame = Box(2 * unit, (2 + rows) * unit, unit, (1 + cols) * unit)
    seen = torch.zeros(frame.y1, frame.x1)
    for tile in tiles(frame, side * unit, unit):
        assert max(tile.height, tile.width) <= side * unit
        assert all(edge % unit == 0 for edge in tile)
        seen[tile.y0 : tile.y1, tile.x0 : tile.x1] += 1
    assert (seen[frame.y0 :, frame.x0 :] == 1).all()
    assert seen.sum() == frame.height * frame.width


def test_a_halo_ends_at_the_frame_and_on_the_grid():
    frame = Box(0, 40, 0, 60)
    assert grown(Box(8, 16, 4, 20), 5, frame, 4) == Box(0, 24, 0, 28)
    assert within(Box(8, 16, 4, 20), Box(0, 24, 0, 28)) == Box(8, 16, 4, 20)
    assert scaled(Box(8, 16, 4, 20), Fraction(1, 4)) == Box(2, 4, 1, 5)


STACKS = {
    "residual": lambda model: model.lr_encoder.body,
    "fusion": lambda model: model.fusion.body,
    "features": lambda model: model.matching.features,
    "center": lambda model: model.center_encoder,
    "flow": lambda model: model.alignment.spynet.levels[0],
}


@pytest.fixture(scope="module")
def model() -> SDDuSR:
    """In float64 and without its gates, which see the whole frame."""
    torch.manual_seed(0)
    model = without_zero_starts(SDDuSR(TINY)).double().eval()
    for block in model.lr_encoder.body.body[0].body[:-1]:
        del block.body[-1]
    return model


@pytest.mark.parametrize("name", STACKS)
def test_windows_with_a_halo_of_the_reach_equal_the_whole(model, name):
    stack = STACKS[name](model)
    dim = next(m for m in stack.modules() if isinstance(m, nn.Conv2d)).in_channels
    frame = torch.randn(1, dim, 52, 44, dtype=torch.float64)
    factor = {"features": Fraction(1, 2), "center": Fraction(2)}.get(name, Fraction(1))

    def compute(window: Box) -> torch.Tensor:
        return stack(frame[:, :, window.y0 : window.y1, window.x0 : window.x1])

    with torch.inference_mode():
        whole = stack(frame)
        tiled = in_tiles(compute, Box(0, 52, 0, 44), 8, reach(stack), factor)
        short = in_tiles(compute, Box(0, 52, 0, 44), 8, 0, factor)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-12)
    assert (short - whole).abs().max() > 1e-3


def test_reach_counts_pixels_of_the_input_grid(model):
    assert reach(model.matching.features) == 1 + 1 + 2 + 2 + 2
    assert reach(model.lr_encoder.up, model.head) == 2  # a third of it on a grid twice as fine
    assert reach(model.alignment.spynet.levels[0]) == 5 * 3
