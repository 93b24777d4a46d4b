"""Encoders of the LR picture, its centre and Ref; all end on the 2x grid (section 3.1)."""

from jaxtyping import Float
from torch import Tensor, nn

from sddusr.config import EncoderConfig
from sddusr.model.blocks import (
    ChannelAttention,
    ResidualBlock,
    ResidualGroup,
    conv3x3,
    pass_through,
    pixel_shuffle_up,
)


class LrEncoder(nn.Module):
    """I^LR to F^LR: residual groups with channel attention, then twice the grid."""

    def __init__(self, dim: int, config: EncoderConfig) -> None:
        super().__init__()
        groups = [
            ResidualGroup(
                dim,
                [
                    ResidualBlock(dim, gates=[ChannelAttention(dim, config.reduction)])
                    for _ in range(config.num_blocks)
                ],
            )
            for _ in range(config.num_groups)
        ]
        self.head = conv3x3(3, dim)
        self.body = ResidualGroup(dim, groups)
        self.up = pixel_shuffle_up(dim)

    def forward(self, lr: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
        return self.up(self.encode(lr))

    def encode(self, lr: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
        """The feature on LR's own grid."""
        return self.body(self.head(lr))


def center_encoder(dim: int, config: EncoderConfig) -> nn.Sequential:
    """I^LRC (b 3 hc wc) to F^LRC (b c 2hc 2wc)."""
    return nn.Sequential(
        conv3x3(3, dim), pixel_shuffle_up(dim), plain_trunk(dim, config.num_ref_blocks)
    )


def ref_encoder(dim: int, config: EncoderConfig) -> nn.Sequential:
    """I^Ref (b 3 2hc 2wc) to F^Ref (b c 2hc 2wc); shares no weights with the centre encoder."""
    return nn.Sequential(conv3x3(3, dim), plain_trunk(dim, config.num_ref_blocks))


def plain_trunk(dim: int, num_blocks: int) -> nn.Sequential:
    """Residual blocks without gates and a 3x3 tail, which starts as the identity."""
    blocks = (ResidualBlock(dim) for _ in range(num_blocks))
    return nn.Sequential(*blocks, pass_through(conv3x3(dim, dim)))
