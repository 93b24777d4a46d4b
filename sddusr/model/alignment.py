"""Alignment of the Ref feature to the centre: optical flow, then a deformable convolution."""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from sddusr.config import AlignmentConfig
from sddusr.model.blocks import activation, conv3x3, pass_through, zero_start
from sddusr.model.deformable import (
    TAPS,
    Look,
    Planes,
    Tap,
    composed_deform_conv2d,
    exact_planes,
    joined_deform_conv2d,
    operator_deform_conv2d,
    uses_operator,
)
from sddusr.model.matching.transfer import warp_by_flow
from sddusr.model.pretrained_weights import Normalize, fetch_spynet, in_layer_order, load_state

FLOW_DIM = 2


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
        size = ((rows + step - 1) // step * step, (cols + step - 1) // step * step)
        pyramids = [self._pyramid(self._normalised(x, size)) for x in (picture, other)]
        coarsest = pyramids[0][0]
        flow = coarsest.new_zeros(len(picture), 2, *coarsest.shape[2:])
        for i, (level, fixed, moving) in enumerate(zip(self.levels, *pyramids, strict=True)):
            if i > 0:
                flow = 2 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=True)
            flow = flow + apply(level, torch.cat([fixed, warp_by_flow(moving, flow), flow], dim=1))
        flow = F.interpolate(flow, size=(rows, cols), mode="bilinear")
        if not torch.compiler.is_exporting() and size == (rows, cols):
            return flow
        x, y = flow.unbind(1)
        return torch.stack([x * (cols / size[1]), y * (rows / size[0])], dim=1)

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
            kernel = self.conv.weight, self.conv.bias
            if torch.compiler.is_exporting():
                taps = self._all_taps(hints.float(), flow)
                return joined_deform_conv2d(ref_feat, *taps, *kernel, corner=corner)
            if uses_operator(ref_feat):
                offset, mask = self._all_taps(hints.float(), flow)
                return operator_deform_conv2d(ref_feat, offset, mask, *kernel, corner=corner)
            look = self._looking(hints.float(), flow)
            size = flow.shape[2], flow.shape[3]
            return composed_deform_conv2d(
                ref_feat, look, *kernel, num_groups=self.num_groups, size=size, corner=corner
            )

    def _all_taps(
        self, hints: Float[Tensor, "b c h w"], flow: Float[Tensor, "b 2 h w"]
    ) -> tuple[Float[Tensor, "b _ h w"], Float[Tensor, "b _ h w"]]:
        """`_looking` for all taps, as torchvision's operator reads offsets (y, x) and gates."""
        raw = self.offset_tail(hints).unflatten(1, (3, self.num_groups, TAPS))
        yx = flow.flip(1)[:, :, None, None] + self.max_offset_px * torch.tanh(raw[:, :2])
        offset = rearrange(yx, "b yx g t h w -> b (g t yx) h w")
        return offset, torch.sigmoid(raw[:, 2]).flatten(1, 2).contiguous()

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
