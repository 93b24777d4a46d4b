"""Convolution, residual block and the gates that are passed into it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

NEGATIVE_SLOPE = 0.2

BRANCH_START = 0.1
"""Of a residual block's last convolution, its usual first weights' share."""


def conv3x3(dim_in: int, dim_out: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the grid (or divides it by the stride)."""
    return nn.Conv2d(dim_in, dim_out, kernel_size=3, stride=stride, padding=1)


def activation() -> nn.LeakyReLU:
    """The network's one non-linearity."""
    return nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)


def channel_mean(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
    """`x.mean(1, keepdim=True)`, which for bfloat16 on a processor copies x to float32 first: a
    tenth of a picture's time. The sum does not, and adds in float32 all the same."""
    return x.sum(1, keepdim=True) / x.shape[1]


class FrameMean(nn.Module):
    """Mean of each channel over the picture: with `FrameMax`, all that the convolutions' side of
    the network reads of far-off pixels. Tiles hold these fixed (`inference.pooling`)."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
        num_px = x.shape[2] * x.shape[3]
        if x.dtype == torch.bfloat16 and not x.requires_grad:
            # A product with ones adds in float32 too, and in less than half the sum's time.
            ones = x.new_ones(len(x), 1, num_px)
            return (ones @ x.flatten(2).mT).view(*x.shape[:2], 1, 1) / num_px
        if x.dtype == torch.float16:  # the sum of a photo is more than it holds
            return (x.sum((2, 3), keepdim=True, dtype=torch.float32) / num_px).to(x.dtype)
        return x.sum((2, 3), keepdim=True) / num_px


def channel_max(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
    """`x.amax(1, keepdim=True)`, whose backward divides the gradient among equals, in six passes
    over x. Where a gradient is asked for, the first of the largest takes it, as in a max pool."""
    if x.requires_grad and torch.is_grad_enabled():
        return rearrange(rearrange(x, "b c h w -> b h w c").max(3).values, "b h w -> b 1 h w")
    return x.amax(1, keepdim=True)


class FrameMax(nn.Module):
    """Maximum of each channel over the picture; its gradient goes to one pixel."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
        pixels = rearrange(x, "b c h w -> b h w c")
        with torch.no_grad():
            row = pixels.amax(2).argmax(1)
            values = pixels.gather(1, row[:, None, None].expand(-1, 1, pixels.shape[2], -1))
            index = row * pixels.shape[2] + values[:, 0].argmax(1)
        return rearrange(pixels.flatten(1, 2).gather(1, index[:, None]), "b 1 c -> b c 1 1")


class Gate(nn.Module, ABC):
    """Scales its input by a factor that it reads from it."""

    @abstractmethod
    def factor(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ _ _"]:
        """What is multiplied by, to be broadcast."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x * self.factor(x)


class ChannelAttention(Gate):
    """Scale each channel by what its mean over the picture says (squeeze and excitation).

    The bottleneck has four units at the paper's width; a plain ReLU there can be dead for every
    picture, hence the leaky one.
    """

    def __init__(self, dim: int, reduction: int) -> None:
        super().__init__()
        self.mean = FrameMean()
        self.gate = nn.Sequential(
            nn.Conv2d(dim, dim // reduction, 1),
            activation(),
            nn.Conv2d(dim // reduction, dim, 1),
            nn.Sigmoid(),
        )

    def factor(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
        return self.gate(self.mean(x))


class CbamChannelGate(Gate):
    """CBAM's channel attention: one MLP reads the channels' means and their maxima."""

    def __init__(self, dim: int, reduction: int) -> None:
        super().__init__()
        self.mean, self.peak = FrameMean(), FrameMax()
        self.mlp = nn.Sequential(
            nn.Conv2d(dim, dim // reduction, 1),
            activation(),
            nn.Conv2d(dim // reduction, dim, 1),
        )

    def factor(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
        return torch.sigmoid(self.mlp(self.mean(x)) + self.mlp(self.peak(x)))


class CbamSpatialGate(Gate):
    """CBAM's spatial attention: a 7x7 convolution over the mean and the maximum of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size=7, padding=3)

    def factor(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
        summary = torch.cat([channel_mean(x), channel_max(x)], dim=1)
        return torch.sigmoid(self.conv(summary))


class ResidualBlock(nn.Module):
    """x + gates(conv(activation(conv(x)))).

    The branch starts at a tenth of its size, as in ESRGAN (Wang et al., 2018), so that what comes
    in reaches the end of a trunk from the first step on. Without that a network from scratch takes
    Ref for noise, and learns to leave it out (see docs/earlier-results.md).
    """

    def __init__(self, dim: int, gates: Sequence[Gate] = ()) -> None:
        super().__init__()
        last = scaled_start(conv3x3(dim, dim), BRANCH_START)
        self.body = nn.Sequential(conv3x3(dim, dim), activation(), last, *gates)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.gated(x, self.before_gates(x))

    def before_gates(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """What the gates are applied to."""
        return self.body[:3](x)

    def gated(
        self, x: Float[Tensor, "b c h w"], before_gates: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """x + gates(before_gates); without gradients the result takes the place of the latter."""
        branch, gates = before_gates, self.body[3:]
        if not len(gates):
            return plus_fresh(x, branch)
        out = None if torch.is_grad_enabled() else branch
        for gate in gates[:-1]:
            branch = torch.mul(branch, _factor(gate, branch), out=out)
        return torch.addcmul(x, branch, _factor(gates[-1], branch), out=out)


def _factor(gate: nn.Module, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ _ _"]:
    assert isinstance(gate, Gate)
    return gate.factor(x)


class ResidualGroup(nn.Module):
    """Blocks, a 3x3 tail and a skip around them all."""

    def __init__(self, dim: int, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(*blocks, conv3x3(dim, dim))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return plus_fresh(x, self.body(x))


def plus_fresh(x: Float[Tensor, "b c h w"], fresh: Float[Tensor, "b c h w"]) -> Tensor:
    """x + fresh, where nobody else reads `fresh`: without gradients the sum takes its place, which
    spares a third of the bytes and a map."""
    return torch.add(x, fresh, out=None if torch.is_grad_enabled() else fresh)


def scaled_start(conv: nn.Conv2d, scale: float) -> nn.Conv2d:
    """The same convolution with weights of that share, and no bias, to start with."""
    assert conv.bias is not None
    with torch.no_grad():
        conv.weight.mul_(scale)
        conv.bias.zero_()
    return conv


def zero_start(conv: nn.Conv2d) -> nn.Conv2d:
    """The same convolution, giving zero until it has learned something."""
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


def pass_through(conv: nn.Conv2d, gain: float = 1.0) -> nn.Conv2d:
    """The same convolution, starting as `gain` times its input; a single input goes everywhere."""
    zero_start(conv)
    with torch.no_grad():
        for channel, kernel in enumerate(conv.weight):
            kernel[channel % conv.in_channels, 1, 1] = gain
    return conv


def pixel_shuffle_up(dim: int) -> nn.Sequential:
    """Twice the height and width by a convolution and a pixel shuffle (ESPCN)."""
    return nn.Sequential(conv3x3(dim, 4 * dim), nn.PixelShuffle(2))
