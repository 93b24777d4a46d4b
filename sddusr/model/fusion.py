"""Fusion of what was seen, found and remembered, and the way back to a picture (Eq. 1)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sddusr.config import FusionConfig
from sddusr.model.blocks import (
    CbamChannelGate,
    CbamSpatialGate,
    ResidualBlock,
    activation,
    conv3x3,
    plus_fresh,
    zero_start,
)
from sddusr.model.encoder import plain_trunk


class Fusion(nn.Module):
    """Concatenated features to F^SR: one CBAM block at full width, then the decoder."""

    def __init__(self, dim: int, num_sources: int, config: FusionConfig) -> None:
        super().__init__()
        self.dim, self.wide_dim = dim, num_sources * dim
        wide = self.wide_dim
        gates = [CbamChannelGate(wide, config.reduction), CbamSpatialGate()]
        self.widest = ResidualBlock(wide, gates=gates)
        self.body = nn.Sequential(
            conv3x3(wide, dim),
            activation(),
            plain_trunk(dim, config.num_blocks),
        )

    def forward(
        self, lr_feat: Float[Tensor, "b c h w"], *found: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        return plus_fresh(lr_feat, self.body(self.widest(self.joined(lr_feat, *found))))

    def joined(
        self, lr_feat: Float[Tensor, "b c h w"], *found: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b wide h w"]:
        """All features side by side, in the format of `lr_feat`: one of them in float32 would make
        the widest maps float32."""
        return torch.cat([lr_feat, *(source.to(lr_feat.dtype) for source in found)], dim=1)

    def before_gates(self, joined: Float[Tensor, "b wide h w"]) -> Float[Tensor, "b wide h w"]:
        """What CBAM's channel gate pools over the frame."""
        return self.widest.before_gates(joined)

    def narrowed(
        self, joined: Float[Tensor, "b wide h w"], before_gates: Float[Tensor, "b wide h w"]
    ) -> Float[Tensor, "b c h w"]:
        """What the decoder reads, from what is joined and what `before_gates` made of it, which is
        lost unless gradients are asked for."""
        return self.body[:-1](self.widest.gated(joined, before_gates))

    def decoded(
        self, lr_feat: Float[Tensor, "b c h w"], narrow: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """F^SR, from LR's feature and what `narrowed` gives."""
        return plus_fresh(lr_feat, self.body[-1](narrow))


def picture_head(dim: int, starts_at_zero: bool) -> nn.Sequential:
    """F^SR (b c 2h 2w) to RGB, or to what is added to a picture."""
    last = conv3x3(dim // 2, 3)
    return nn.Sequential(
        conv3x3(dim, dim // 2), activation(), zero_start(last) if starts_at_zero else last
    )
