"""The deformable convolution out of nine `grid_sample`s beside torchvision's operator.

Forward and backward, on a processor.
"""

from collections.abc import Callable

import torch
from _timing import compare
from torch import Tensor
from torchvision.ops import deform_conv2d

from sddusr.model.alignment import composed_deform_conv2d

BATCH, DIM, SIDE, GROUPS = 1, 64, 128, 8


def main() -> None:
    torch.manual_seed(0)
    shapes = [
        (BATCH, DIM, SIDE, SIDE),
        (BATCH, GROUPS * 18, SIDE, SIDE),
        (DIM, DIM, 3, 3),
        (DIM,),
        (BATCH, GROUPS * 9, SIDE, SIDE),
    ]
    leaves = [torch.randn(shape, requires_grad=True) for shape in shapes]

    def there_and_back(operator: Callable[..., Tensor]) -> None:
        picture, offset, weight, bias, mask = leaves
        output = operator(picture, offset, weight, bias, padding=(1, 1), mask=mask)
        torch.autograd.grad(output.sum(), leaves)

    compare(
        f"deform conv {BATCH}x{DIM}x{SIDE}x{SIDE}",
        lambda: there_and_back(composed_deform_conv2d),
        lambda: there_and_back(deform_conv2d),
        num_rounds=3,
    )


if __name__ == "__main__":
    main()
