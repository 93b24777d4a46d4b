"""The deformable convolution out of nine `grid_sample`s beside torchvision's operator.

Forward and backward, on a processor.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from _timing import arguments, compare, finish
from torch import Tensor
from torchvision.ops import deform_conv2d

from sddusr.model.alignment import composed_deform_conv2d

BATCH, DIM, GROUPS = 1, 64, 8
FULL, QUICK = 128, 48
"""Side of the feature."""


def main() -> None:
    given = arguments(__doc__).parse_args()
    side = QUICK if given.quick else FULL
    ours, plain = (
        partial(there_and_back, operator, side)
        for operator in (composed_deform_conv2d, partial(deform_conv2d, padding=(1, 1)))
    )
    finish([compare("deformable-convolution", ours, plain, given)], given)


def there_and_back(operator: Callable[..., Tensor], side: int) -> Callable[[], Any]:
    torch.manual_seed(0)
    shapes = [
        (BATCH, DIM, side, side),
        (BATCH, GROUPS * 18, side, side),
        (DIM, DIM, 3, 3),
        (DIM,),
        (BATCH, GROUPS * 9, side, side),
    ]
    leaves = [torch.randn(shape, requires_grad=True) for shape in shapes]

    def work() -> None:
        picture, offset, weight, bias, mask = leaves
        output = operator(picture, offset, weight, bias, mask=mask)
        torch.autograd.grad(output.sum(), leaves)

    return work


if __name__ == "__main__":
    main()
