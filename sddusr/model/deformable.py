"""A modulated deformable convolution that knows parts of a picture, and the planes it reads."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from sddusr.model.ordered import sample_bilinear
from sddusr.model.tuning import tuning

TAPS = 9
"""Of a 3x3 kernel, in rows."""


class Tap(NamedTuple):
    """Where a tap of the kernel looks, by group of channels."""

    y: Float[Tensor, "b g h w"]
    """Pixels from its place in the kernel."""
    x: Float[Tensor, "b g h w"]
    gate: Float[Tensor, "b g h w"]
    """What is seen there is multiplied by it."""


Look = Callable[[int, slice], Tap]
"""From a tap's number, in rows of the kernel, and rows of the picture."""


def exact_planes(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """What sampling reads best: from a feature with channels last it takes twice as long."""
    return (x if x.is_contiguous() else Planes.apply(x)).float()


class Planes(torch.autograd.Function):
    """`x.contiguous()` of a feature with channels last.

    On a processor it is made in strips that the caches hold: read whole, a cache line is fetched
    once for each of its channels, which takes up to five times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        at_once = tuning(x.device).plane_px
        if not at_once:
            return x.contiguous()
        planes = torch.empty_like(x, memory_format=torch.contiguous_format)
        rows = max(1, at_once // x.shape[3])
        for strip, source in zip(planes.split(rows, 2), x.split(rows, 2), strict=True):
            strip.copy_(source)
        return planes

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Float[Tensor, "b c h w"]:
        return grad_outputs[0]


def uses_operator(x: Tensor) -> bool:
    """Whether torchvision's operator is taken: where it is faster, unless gradients must add up in
    a fixed order."""
    is_faster = tuning(x.device).deform_operator
    return is_faster and not (
        torch.is_grad_enabled() and torch.are_deterministic_algorithms_enabled()
    )


def operator_deform_conv2d(
    picture: Float[Tensor, "b c rows cols"],
    offset: Float[Tensor, "b _ h w"],
    mask: Float[Tensor, "b _ h w"],
    weight: Float[Tensor, "c_out c 3 3"],
    bias: Float[Tensor, "c_out"] | None,
    *,
    corner: tuple[int, int] = (0, 0),
) -> Float[Tensor, "b c_out h w"]:
    """`torchvision.ops.deform_conv2d` for a part of an image, which that does not know.

    Around the part its offsets are zero and the result is cut: for parts that cover most of what
    they read.
    """
    from torchvision.ops import deform_conv2d

    (top, left), (height, width) = corner, offset.shape[2:]
    rows, cols = picture.shape[2:]
    if (height, width) == (rows, cols):
        return deform_conv2d(picture, offset, weight, bias, padding=(1, 1), mask=mask)
    beyond = left, cols - left - width, top, rows - top - height
    offset, mask = F.pad(offset, beyond), F.pad(mask, beyond)
    whole = deform_conv2d(picture, offset, weight, bias, padding=(1, 1), mask=mask)
    return whole[:, :, top : top + height, left : left + width]


def composed_deform_conv2d(
    picture: Float[Tensor, "b c rows cols"],
    look: Look,
    weight: Float[Tensor, "c_out c 3 3"],
    bias: Float[Tensor, "c_out"] | None,
    *,
    num_groups: int,
    size: tuple[int, int],
    corner: tuple[int, int] = (0, 0),
) -> Float[Tensor, "b c_out h w"]:
    """`torchvision.ops.deform_conv2d` for a 3x3 kernel with stride and padding 1, out of nine
    `grid_sample`s.

    On a processor its backward is five times faster than the operator's.
    Zeros lie outside the picture.

    Args:
        look: asked for one tap at a time, so that its maps are at hand when they are used.
        num_groups: of channels that look together.
        size: (h, w) of the result.
        corner: (y, x) of the part of the picture that the result belongs to.
    """
    num, _, rows, cols = picture.shape
    height, width = size
    planes = rearrange(picture, "b (g c) h w -> (b g) c h w", g=num_groups).contiguous()
    kernels = rearrange(weight, "o c y x -> (y x) 1 o c").expand(-1, num, -1, -1).unbind()
    y = corner[0] + torch.arange(height, device=picture.device, dtype=picture.dtype).view(-1, 1)
    x = corner[1] + torch.arange(width, device=picture.device, dtype=picture.dtype)
    level = weight.new_zeros(len(weight)) if bias is None else bias
    strips = []
    # Backward would make a gradient of the whole picture for every strip.
    strip = height if torch.is_grad_enabled() else tuning(picture.device).deform_rows
    for start in range(0, height, strip):
        here = slice(start, start + strip)
        summed = level.view(1, -1, 1).expand(num, -1, len(y[here]) * width)
        summed = summed.clone(memory_format=torch.contiguous_format)
        for number, kernel in enumerate(kernels):
            tap_y, tap_x = divmod(number, 3)
            tap = look(number, here)
            at_y = torch.add((2 * (y[here] + tap_y) - 1) / rows - 1, tap.y, alpha=2 / rows)
            at_x = torch.add((2 * (x + tap_x) - 1) / cols - 1, tap.x, alpha=2 / cols)
            grid = torch.stack([at_x, at_y], dim=-1)
            seen = sample_bilinear(planes, grid.flatten(0, 1))
            seen = seen * rearrange(tap.gate, "b g h w -> (b g) 1 h w")
            summed.baddbmm_(kernel, seen.view(num, -1, summed.shape[2]))
        strips.append(summed.unflatten(2, (-1, width)))
    return torch.cat(strips, dim=2)


def joined_deform_conv2d(
    picture: Float[Tensor, "b c rows cols"],
    offset: Float[Tensor, "b _ h w"],
    mask: Float[Tensor, "b _ h w"],
    weight: Float[Tensor, "c_out c 3 3"],
    bias: Float[Tensor, "c_out"] | None,
    *,
    corner: tuple[int, int] = (0, 0),
) -> Float[Tensor, "b c_out h w"]:
    """The same with all taps in one `grid_sample`, which takes nine times the memory: for an
    exported graph, where every operator has to be written out for each tap.

    Args:
        offset, mask: as `torchvision.ops.deform_conv2d` takes them.
    """
    (num, _, rows, cols), (height, width) = picture.shape, offset.shape[2:]
    num_groups = mask.shape[1] // TAPS
    planes = picture.unflatten(1, (num_groups, -1)).flatten(0, 1)
    shift_y, shift_x = offset.view(num * num_groups, TAPS, 2, height, width).unbind(2)
    tap = torch.arange(TAPS, device=picture.device, dtype=picture.dtype).view(-1, 1, 1)
    tap_y = torch.div(tap, 3, rounding_mode="floor")
    y = corner[0] + torch.arange(height, device=picture.device, dtype=picture.dtype).view(-1, 1)
    x = corner[1] + torch.arange(width, device=picture.device, dtype=picture.dtype)
    at_y = (2 * (y + tap_y + shift_y) - 1) / rows - 1
    at_x = (2 * (x + (tap - 3 * tap_y) + shift_x) - 1) / cols - 1
    grid = torch.stack([at_x, at_y], dim=-1).flatten(1, 2)
    seen = F.grid_sample(planes, grid, align_corners=False)
    seen = seen * mask.view(num * num_groups, 1, TAPS * height, width)
    summed = weight.flatten(1) @ seen.reshape(num, -1, height * width)
    summed = summed if bias is None else summed + bias.view(-1, 1)
    return summed.view(num, -1, height, width)
