"""The deformable convolution out of nine `grid_sample`s beside torchvision's operator.

Forward and backward, on a processor.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from _timing import arguments, compare, finish
from einops import rearrange
from torch import Tensor
from torchvision.ops import deform_conv2d

from sddusr.config.arguments import parse_args
from sddusr.model.deformable import TAPS, Tap, composed_deform_conv2d

BATCH, DIM, GROUPS = 1, 64, 8
FULL, QUICK = 128, 48
"""Side of the feature."""


def main() -> None:
    given = parse_args(arguments(__doc__))
    side = QUICK if given.quick else FULL
    ours, plain = (partial(there_and_back, operator, side) for operator in (composed, torchvisions))
    finish([compare("deformable-convolution", ours, plain, given)], given)


def composed(picture: Tensor, maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    taps = taps_of(maps)
    return composed_deform_conv2d(
        picture,
        lambda tap, rows: Tap(*(x[:, :, rows] for x in taps[tap])),
        weight,
        bias,
        num_groups=GROUPS,
        size=(picture.shape[2], picture.shape[3]),
    )


def torchvisions(picture: Tensor, maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    offset = rearrange(maps[:, :2], "t yx b g h w -> b (g t yx) h w")
    mask = rearrange(maps[:, 2], "t b g h w -> b (g t) h w")
    return deform_conv2d(picture, offset, weight, bias, padding=(1, 1), mask=mask)


def taps_of(maps: Tensor) -> list[Tap]:
    return [Tap(*tap.unbind()) for tap in maps.unbind()]


def there_and_back(operator: Callable[..., Tensor], side: int) -> Callable[[], Any]:
    torch.manual_seed(0)
    shapes = [
        (BATCH, DIM, side, side),
        (TAPS, 3, BATCH, GROUPS, side, side),
        (DIM, DIM, 3, 3),
        (DIM,),
    ]
    leaves = [torch.randn(shape, requires_grad=True) for shape in shapes]

    def work() -> None:
        torch.autograd.grad(operator(*leaves).sum(), leaves)

    return work


if __name__ == "__main__":
    main()
