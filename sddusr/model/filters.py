"""Small linear filters of pictures; they repeat the border and keep no constant on a device."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
SOFT_KERNEL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""Ref as the wide lens would see it: a binomial blur of sigma 1 HR px, at any phase of the grid."""
SOFT_REACH_PX = len(SOFT_KERNEL) // 2


def high_pass(x: Float[Tensor, "b c h w"], window_px: int) -> Float[Tensor, "b c h w"]:
    """x less its mean over a square window."""
    return x - box_mean(x, window_px)


def box_mean(x: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c h w"]:
    """Mean over a square window around each pixel, the border repeated; one axis at a time."""
    half = side // 2
    x = _mean_along(F.pad(x, (0, 0, half, half), mode="replicate"), side, 2)
    return _mean_along(F.pad(x, (half, half, 0, 0), mode="replicate"), side, 3)


def _mean_along(x: Float[Tensor, "b c _ _"], side: int, dim: int) -> Float[Tensor, "b c _ _"]:
    """Means of `side` neighbours along one axis.

    PyTorch's pooling adds them one by one on a CPU, where sums of 2, 4, 8 are ten times faster.
    """
    if x.device.type != "cpu" or torch.compiler.is_exporting():
        return F.avg_pool2d(x, (side, 1) if dim == 2 else (1, side), 1)
    length, start, num = x.shape[dim] - side + 1, 0, 1
    parts, sums = [], x  # of `num` neighbours each
    while num <= side:
        if side & num:
            parts.append(sums.narrow(dim, start, length))
            start += num
        if 2 * num <= side:
            rest = sums.shape[dim] - num
            sums = sums.narrow(dim, 0, rest) + sums.narrow(dim, num, rest)
        num *= 2
    return sum(parts[1:], start=parts[0]) / side


def largest_around(x: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c h w"]:
    """Maximum over a square window around each pixel; one axis at a time."""
    half = side // 2
    if x.device.type != "cpu" or torch.compiler.is_exporting():
        x = F.max_pool2d(x, (side, 1), 1, (half, 0))
        return F.max_pool2d(x, (1, side), 1, (0, half))
    x = _largest_along(F.pad(x, (0, 0, half, half), mode="replicate"), side, 2)
    return _largest_along(F.pad(x, (half, half, 0, 0), mode="replicate"), side, 3)


def _largest_along(x: Float[Tensor, "b c _ _"], side: int, dim: int) -> Float[Tensor, "b c _ _"]:
    """Maxima of `side` neighbours along one axis: of 2, 4, 8, then of two that overlap."""
    length, num = x.shape[dim] - side + 1, 1
    while 2 * num <= side:
        rest = x.shape[dim] - num
        x = torch.maximum(x.narrow(dim, 0, rest), x.narrow(dim, num, rest))
        num *= 2
    return torch.maximum(x.narrow(dim, 0, length), x.narrow(dim, side - num, length))


def soften(ref: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """A binomial blur of sigma 1."""
    height, width = ref.shape[2:]
    half = len(SOFT_KERNEL) // 2
    padded = F.pad(ref, (0, 0, half, half), mode="replicate")
    ref = _weighted_sum(padded[:, :, i : i + height] for i in range(len(SOFT_KERNEL)))
    padded = F.pad(ref, (half, half, 0, 0), mode="replicate")
    return _weighted_sum(padded[..., i : i + width] for i in range(len(SOFT_KERNEL)))


def _weighted_sum(shifted: Iterable[Tensor]) -> Tensor:
    terms = [weight * x for weight, x in zip(SOFT_KERNEL, shifted, strict=True)]
    return terms[0] + terms[1] + terms[2] + terms[3] + terms[4]


def luma(picture: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """BT.601, full range."""
    red, green, blue = picture.split(1, dim=1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def chroma(picture: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 2 h w"]:
    """Red and blue less the luma."""
    return picture[:, ::2] - luma(picture)
