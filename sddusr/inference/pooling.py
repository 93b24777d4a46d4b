"""What pools over the frame: measured once, then held fixed, so that tiles agree with each other.

24 channel attentions of the LR encoder read the mean of the whole picture, and the fusion's gate
mean and maximum. All else that the tiles compute looks a known distance far (`tiles.reach`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from sddusr.inference.overrides import override_forward
from sddusr.model.blocks import FrameMax, FrameMean

Pools = dict[nn.Module, Tensor]
"""`FrameMean` or `FrameMax` -> its value for the frame, (1, c, 1, 1)."""


@contextmanager
def fixed_pools(pools: Mapping[nn.Module, Tensor]) -> Iterator[None]:
    """Inside, these modules give the frame's value, whatever they are shown."""

    def give(module: nn.Module, x: Tensor) -> Tensor:
        return pools[module].to(x.dtype)

    with override_forward({module: partial(give, module) for module in pools}):
        yield


@contextmanager
def measure_pools(model: nn.Module, margin: int) -> Iterator[Pools]:
    """Inside, every pool of `model` reads the whole batch at once, and is remembered.

    Args:
        margin: pixels at each border of the batch's pictures that are left out: there, the
            convolutions have padded what is no border of the frame.
    """
    pools: Pools = {}

    def pool(module: nn.Module, x: Tensor) -> Tensor:
        rows, cols = x.shape[2:]
        inner = x[:, :, margin : rows - margin, margin : cols - margin]
        over = (0, 2, 3)
        value = inner.mean(over, True) if isinstance(module, FrameMean) else inner.amax(over, True)
        pools[module] = value
        return value.expand(x.shape[0], -1, -1, -1)

    found = (m for m in model.modules() if isinstance(m, FrameMean | FrameMax))
    with override_forward({module: partial(pool, module) for module in found}):
        yield pools


class RunningPool:
    """Mean and maximum of each channel over pieces of a frame."""

    def __init__(self) -> None:
        self.total, self.peak, self.num_pixels = None, None, 0

    def add(self, piece: Float[Tensor, "1 c _ _"]) -> None:
        # A row of a tile is contiguous, the tile is not: reductions of both at once are slow.
        rows = rearrange(piece, "1 c h w -> h w c")
        total, peak = rows.sum(1).sum(0, dtype=torch.float32), rows.amax(1).amax(0)
        total, peak = total.view(1, -1, 1, 1), peak.view(1, -1, 1, 1)
        if self.total is None or self.peak is None:
            self.total, self.peak = total, peak
        else:
            self.total, self.peak = self.total + total, torch.maximum(self.peak, peak)
        self.num_pixels += piece.shape[2] * piece.shape[3]

    def values(self, model: nn.Module) -> Pools:
        """The value of each pool below `model`, which must all read what was added."""
        if self.total is None or self.peak is None:
            raise ValueError("nothing was pooled, need a piece or more")
        of_kind = {FrameMean: self.total / self.num_pixels, FrameMax: self.peak}
        return {m: of_kind[type(m)] for m in model.modules() if type(m) in of_kind}
