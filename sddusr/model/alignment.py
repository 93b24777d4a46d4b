"""Alignment of the Ref feature to the centre: optical flow, then a deformable convolution."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from sddusr.config import AlignmentConfig
from sddusr.model.blocks import activation, conv3x3, pass_through, zero_start
from sddusr.model.warp import warp_by_flow
from sddusr.weights import Normalize, fetch_spynet, in_layer_order, load_state

FLOW_DIM = 2

TAPS = 9
"""Of a 3x3 kernel, in rows."""

STRIP_PX = 4096
"""Pixels whose channels are laid out anew at once."""

STRIP_ROWS = 64
"""Rows of a picture that all taps are summed over at once: samples that the caches hold."""


class Tap(NamedTuple):
    """Where a tap of the kernel looks, by group of channels."""

    y: Float[Tensor, "b g h w"]
    """Pixels from its place in the kernel."""
    x: Float[Tensor, "b g h w"]
    gate: Float[Tensor, "b g h w"]
    """What is seen there is multiplied by it."""


Look = Callable[[int, slice], Tap]
"""From a tap's number, in rows of the kernel, and rows of the picture."""


class SpyNet(nn.Module):
    """Coarse-to-fine optical flow (Ranjan and Black, 2017); each level corrects the one before."""

    def __init__(self, num_levels: int, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.levels = nn.ModuleList(_flow_level(dims) for _ in range(num_levels))

    def forward(
        self,
        picture: Float[Tensor, "b 3 h w"],
        other: Float[Tensor, "b 3 h w"],
        apply: Callable[[nn.Module, Tensor], Tensor] = nn.Module.__call__,
    ) -> Float[Tensor, "b 2 h w"]:
        """Flow (x, y) in pixels such that other(p + flow(p)) ≈ picture(p).

        Args:
            apply: how a level's convolutions are run, for a frame that is too large for one piece.
        """
        rows, cols = picture.shape[2:]
        step = 2 ** (len(self.levels) - 1)
        size = (-(-rows // step) * step, -(-cols // step) * step)
        pyramids = [self._pyramid(self._normalised(x, size)) for x in (picture, other)]
        coarsest = pyramids[0][0]
        flow = coarsest.new_zeros(len(picture), 2, *coarsest.shape[2:])
        for i, (level, fixed, moving) in enumerate(zip(self.levels, *pyramids, strict=True)):
            if i > 0:
                flow = 2 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=True)
            flow = flow + apply(level, torch.cat([fixed, warp_by_flow(moving, flow), flow], dim=1))
        scale = flow.new_tensor([cols / size[1], rows / size[0]]).view(1, 2, 1, 1)
        return F.interpolate(flow, size=(rows, cols), mode="bilinear") * scale

    def load(self, source: str) -> None:
        """Start from the weights trained on Sintel, by name (`sintel`) or from a path.

        Raises:
            FileNotFoundError: they are not to be had.
            ValueError: they are of another shape.
        """
        state = load_state(
            source,
            name="sintel",
            what="SpyNet",
            flag="--model.alignment.spynet-weights",
            fetch=fetch_spynet,
        )
        layers, own = in_layer_order(state), self._convolutions()
        if [w.shape for w, _ in layers] != [conv.weight.shape for conv in own]:
            raise ValueError(
                f"SpyNet weights {source} have {len(layers)} convolutions, the config wants "
                f"{len(own)} of --model.alignment.spynet-dims; the published ones need 6 levels "
                f"of 32 64 32 16"
            )
        for conv, (weight, bias) in zip(own, layers, strict=True):
            conv.load_state_dict({"weight": weight, "bias": bias})

    def start_at_zero_flow(self) -> None:
        """Without published weights, begin with no motion instead of random motion."""
        for conv in self._convolutions():
            if conv.out_channels == FLOW_DIM:
                zero_start(conv)

    def _convolutions(self) -> list[nn.Conv2d]:
        return [layer for layer in self.levels.modules() if isinstance(layer, nn.Conv2d)]

    def _normalised(self, picture: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(self.normalize(picture), size=size, mode="bilinear")

    def _pyramid(self, picture: Tensor) -> list[Tensor]:
        """Coarsest first."""
        levels = [picture]
        for _ in self.levels[1:]:
            levels.append(F.avg_pool2d(levels[-1], 2))
        return levels[::-1]


def _flow_level(dims: tuple[int, ...]) -> nn.Sequential:
    channels = (3 + 3 + FLOW_DIM, *dims, FLOW_DIM)
    layers: list[nn.Module] = []
    for dim_in, dim_out in pairwise(channels):
        layers += [nn.Conv2d(dim_in, dim_out, 7, padding=3), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


class Alignment(nn.Module):
    """F^Ref to F^align: modulated deformable convolution whose offsets start at the flow."""

    def __init__(self, dim: int, config: AlignmentConfig) -> None:
        super().__init__()
        self.max_flow_px, self.max_offset_px = config.max_flow_px, config.max_offset_px
        self.num_groups = config.num_groups
        self.spynet = SpyNet(config.spynet_levels, config.spynet_dims)
        if config.spynet_weights == "none":
            self.spynet.start_at_zero_flow()
        self.offset_head = nn.Sequential(
            conv3x3(2 * dim + 2, dim), activation(), conv3x3(dim, dim), activation()
        )
        self.offset_tail = zero_start(conv3x3(dim, config.num_groups * TAPS * 3))
        # Gates start at one half, so the aligned feature starts as Ref's own.
        self.conv = pass_through(conv3x3(dim, dim), gain=2.0)

    def offset_parameters(self) -> list[nn.Parameter]:
        """What decides the offsets and gates, beside the flow."""
        return [*self.offset_head.parameters(), *self.offset_tail.parameters()]

    def forward(
        self,
        lr_center: Float[Tensor, "b 3 hc wc"],
        ref: Float[Tensor, "b 3 2*hc 2*wc"],
        center_feat: Float[Tensor, "b c 2*hc 2*wc"],
        ref_feat: Float[Tensor, "b c 2*hc 2*wc"],
    ) -> Float[Tensor, "b c 2*hc 2*wc"]:
        """F^align on the 2x grid."""
        return self.align(self.flow(lr_center, ref), center_feat, ref_feat)

    def flow(
        self,
        lr_center: Float[Tensor, "b 3 hc wc"],
        ref: Float[Tensor, "b 3 2*hc 2*wc"],
        apply: Callable[[nn.Module, Tensor], Tensor] = nn.Module.__call__,
    ) -> Float[Tensor, "b 2 2*hc 2*wc"]:
        """Where each pixel of the centre lies in Ref, as (x, y) px of the 2x grid off its place."""
        with torch.autocast(lr_center.device.type, enabled=False):
            flow = self.spynet(lr_center.float(), F.avg_pool2d(ref.float(), 2), apply)
        flow = 2 * F.interpolate(flow, scale_factor=2, mode="bilinear")
        return flow.clamp(-self.max_flow_px, self.max_flow_px)

    def align(
        self,
        flow: Float[Tensor, "b 2 h w"],
        center_feat: Float[Tensor, "b c h w"],
        ref_feat: Float[Tensor, "b c rows cols"],
        corner: tuple[int, int] = (0, 0),
    ) -> Float[Tensor, "b c h w"]:
        """The deformable convolution, guided by the flow.

        Args:
            corner: (y, x) of the part of Ref that is aligned; flow and center_feat are that part's,
                and what they point at may lie anywhere in Ref.
        """
        ref_feat = exact_planes(ref_feat)
        warped = warp_by_flow(ref_feat, flow, corner).to(center_feat)
        hints = self.offset_head(torch.cat([warped, center_feat, flow.to(center_feat)], dim=1))
        with torch.autocast(flow.device.type, enabled=False):
            look = self._looking(hints.float(), flow)
            kernel = self.conv.weight, self.conv.bias
            # The operator is faster on a GPU, and knows no parts of a picture.
            if ref_feat.is_cuda and flow.shape[2:] == ref_feat.shape[2:]:
                from torchvision.ops import deform_conv2d

                offset, mask = operator_inputs([look(tap, slice(None)) for tap in range(TAPS)])
                return deform_conv2d(ref_feat, offset, *kernel, padding=(1, 1), mask=mask)
            size = flow.shape[2], flow.shape[3]
            return composed_deform_conv2d(ref_feat, look, *kernel, size=size, corner=corner)

    def _looking(self, hints: Float[Tensor, "b c h w"], flow: Float[Tensor, "b 2 h w"]) -> Look:
        """Where the flow and each tap's own offset point to."""
        raw = Planes.apply(self.offset_tail(hints))
        shift_y, shift_x, gate = (
            part.unflatten(1, (self.num_groups, TAPS)).unbind(2) for part in raw.chunk(3, dim=1)
        )
        flow_x, flow_y = flow.split(1, dim=1)

        def look(tap: int, rows: slice) -> Tap:
            y, x = (
                flow_[:, :, rows] + self.max_offset_px * torch.tanh(shift[tap][:, :, rows])
                for flow_, shift in ((flow_y, shift_y), (flow_x, shift_x))
            )
            return Tap(y, x, torch.sigmoid(gate[tap][:, :, rows]))

        return look


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
        if x.is_cuda:
            return x.contiguous()
        planes = torch.empty_like(x, memory_format=torch.contiguous_format)
        rows = max(1, STRIP_PX // x.shape[3])
        for strip, source in zip(planes.split(rows, 2), x.split(rows, 2), strict=True):
            strip.copy_(source)
        return planes

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Float[Tensor, "b c h w"]:
        return grad_outputs[0]


def operator_inputs(
    taps: Sequence[Tap],
) -> tuple[Float[Tensor, "b _ h w"], Float[Tensor, "b _ h w"]]:
    """Offset and mask as `torchvision.ops.deform_conv2d` takes them, from all nine taps."""
    offset = torch.stack([torch.stack([tap.y, tap.x]) for tap in taps])
    mask = torch.stack([tap.gate for tap in taps])
    return (
        rearrange(offset, "t yx b g h w -> b (g t yx) h w"),
        rearrange(mask, "t b g h w -> b (g t) h w"),
    )


def composed_deform_conv2d(
    picture: Float[Tensor, "b c rows cols"],
    look: Look,
    weight: Float[Tensor, "c_out c 3 3"],
    bias: Float[Tensor, "c_out"] | None,
    *,
    size: tuple[int, int],
    corner: tuple[int, int] = (0, 0),
) -> Float[Tensor, "b c_out h w"]:
    """`torchvision.ops.deform_conv2d` for a 3x3 kernel with stride and padding 1, out of nine
    `grid_sample`s.

    On a processor its backward is five times faster than the operator's.
    Zeros lie outside the picture.

    Args:
        look: asked for one tap at a time, so that its maps are at hand when they are used.
        size: (h, w) of the result.
        corner: (y, x) of the part of the picture that the result belongs to.
    """
    num, _, rows, cols = picture.shape
    height, width = size
    groups = look(0, slice(0, 1)).gate.shape[1]
    planes = rearrange(picture, "b (g c) h w -> (b g) c h w", g=groups).contiguous()
    kernels = rearrange(weight, "o c y x -> (y x) 1 o c").expand(-1, num, -1, -1).unbind()
    y = corner[0] + torch.arange(height, device=picture.device, dtype=picture.dtype).view(-1, 1)
    x = corner[1] + torch.arange(width, device=picture.device, dtype=picture.dtype)
    level = weight.new_zeros(len(weight)) if bias is None else bias
    strips = []
    # Backward would make a gradient of the whole picture for every strip.
    strip = height if torch.is_grad_enabled() else STRIP_ROWS
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
            seen = F.grid_sample(planes, grid.flatten(0, 1), align_corners=False)
            seen = seen * rearrange(tap.gate, "b g h w -> (b g) 1 h w")
            summed.baddbmm_(kernel, seen.view(num, -1, summed.shape[2]))
        strips.append(summed.unflatten(2, (-1, width)))
    return torch.cat(strips, dim=2)
