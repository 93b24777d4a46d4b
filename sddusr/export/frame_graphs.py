"""The parts of the network that make the picture, each of which becomes one graph.

What a photo's tiles share (matches, pools over the frame, tokens) comes in as an input, so a graph
knows neither frame nor tiles.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sddusr.export.graphs import Part
from sddusr.imaging.resize import bicubic_up
from sddusr.inference import sample
from sddusr.inference.pooling import fixed_pools, measure_pools
from sddusr.model.blocks import FrameMax, FrameMean
from sddusr.model.detail import to_pixels
from sddusr.types import DetailOutput


class Encode(Part):
    """LR's feature on its own grid, where the window is the whole frame."""

    uses = ("lr_encoder",)

    def forward(self, lr: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 c h w"]:
        return self.model.lr_encoder.encode(lr).float()


class EncoderPools(Part):
    """What the encoder's attentions pool, over windows that stand for the frame."""

    uses = ("lr_encoder",)

    def forward(self, windows: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "gates c"]:
        with measure_pools(self.model.lr_encoder, sample.MARGIN) as pools:
            self.model.lr_encoder.encode(windows)
        return torch.cat([pools[gate].flatten(1) for gate in frame_means(self.model.lr_encoder)])


class EncodePart(Part):
    """LR's feature for a part of a frame, whose pools are known."""

    uses = ("lr_encoder",)

    def forward(
        self, lr: Float[Tensor, "1 3 h w"], pools: Float[Tensor, "gates c"]
    ) -> Float[Tensor, "1 c h w"]:
        gates = frame_means(self.model.lr_encoder)
        with fixed_pools({gate: pools[i].view(1, -1, 1, 1) for i, gate in enumerate(gates)}):
            return self.model.lr_encoder.encode(lr).float()


class Gates(Part):
    """What the fusion's gates pool over the frame, for a window of it."""

    uses = ("lr_encoder", "confidence_conv", "trust", "dictionary", "fusion", "head")

    def forward(
        self,
        encoded: Float[Tensor, "1 c h w"],
        warped: Float[Tensor, "1 c 2*h 2*w"],
        confidence: Float[Tensor, "1 1 h//2 w//2"],
        *rest: Tensor,
    ) -> Float[Tensor, "1 wide 2*h 2*w"]:
        """Args:
        rest: `in_place` of the cells whose feature lies at its own place, where the network has
            a detail skip; `has_ref` (1 or 0), `center_tokens` and `ref_tokens`, where it has a
            dictionary.
        """
        return self.model.fusion.before_gates(
            self.joined(encoded, warped, confidence, *rest)[1]
        ).float()

    def joined(
        self, encoded: Tensor, warped: Tensor, confidence: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """LR's feature on the 2x grid, and all that is fused."""
        model, tokens = self.model, list(rest)
        if model.trust is not None:
            in_place = to_pixels(tokens.pop(0))
            warped = torch.where(in_place, warped, model.trusted_match(confidence, warped))
        lr_feat = model.lr_encoder.up(encoded)
        dict_feat = None
        if tokens:
            dict_feat = tokens[0] * self.dictionary.look_up(lr_feat, *tokens[1:])
        return lr_feat, model.fusion.joined(lr_feat, *model.sources(confidence, warped, dict_feat))


class Tile(Gates):
    """A window of the result, from all that is known about the frame."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        lr: Float[Tensor, "1 3 h w"],
        pooled_mean: Float[Tensor, "1 wide 1 1"],
        pooled_max: Float[Tensor, "1 wide 1 1"],
        encoded: Float[Tensor, "1 c h w"],
        warped: Float[Tensor, "1 c 2*h 2*w"],
        confidence: Float[Tensor, "1 1 h//2 w//2"],
        *rest: Tensor,
    ) -> Float[Tensor, "1 3 2*h 2*w"]:
        """Args:
        rest: as `Gates` takes it.
        """
        residual = self.residual(pooled_mean, pooled_max, encoded, warped, confidence, *rest)
        return self.model.picture(residual, bicubic_up(lr))

    def residual(
        self,
        pooled_mean: Tensor,
        pooled_max: Tensor,
        encoded: Tensor,
        warped: Tensor,
        confidence: Tensor,
        *rest: Tensor,
    ) -> Tensor:
        """What the network adds to the bicubic picture, on the 2x grid."""
        fusion = self.model.fusion
        lr_feat, joined = self.joined(encoded, warped, confidence, *rest)
        of_kind = {FrameMean: pooled_mean, FrameMax: pooled_max}
        pools = {m: of_kind[type(m)] for m in fusion.modules() if type(m) in of_kind}
        with fixed_pools(pools):
            narrow = fusion.narrowed(joined, fusion.before_gates(joined))
        return self.model.head(fusion.decoded(lr_feat, narrow)).float()


class TrustedTile(Tile):
    """The same with Ref's moved detail, as far as it is trusted; and that trust."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        lr: Float[Tensor, "1 3 h w"],
        pooled_mean: Float[Tensor, "1 wide 1 1"],
        pooled_max: Float[Tensor, "1 wide 1 1"],
        strength: Float[Tensor, ""],
        maps: Float[Tensor, "1 5 2*h 2*w"],
        inside: Bool[Tensor, "1 1 2*h 2*w"],
        encoded: Float[Tensor, "1 c h w"],
        warped: Float[Tensor, "1 c 2*h 2*w"],
        confidence: Float[Tensor, "1 1 h//2 w//2"],
        *rest: Tensor,
    ) -> tuple[Float[Tensor, "1 3 2*h 2*w"], Float[Tensor, "1 1 2*h 2*w"]]:
        """Args:
        strength: 0 to 1, scales the trust.
        maps: Ref's detail (3), the centre's look and the logit, at the picture's places.
        inside: where the box is.
        """
        residual = self.residual(pooled_mean, pooled_max, encoded, warped, confidence, *rest)
        assert self.model.trust is not None
        of_pixels = torch.where(inside, 1.0, to_pixels(confidence))
        enlarged = bicubic_up(lr)
        look = self.model.look(enlarged)
        trust = strength * self.model.trust.in_picture(encoded, look, of_pixels, maps, inside)
        detail = DetailOutput(trust, maps[:, :3], inside)
        return self.model.picture(residual, enlarged, detail), trust


def frame_means(model: nn.Module) -> list[FrameMean]:
    """The pools of channel attentions, in order."""
    return [module for module in model.modules() if isinstance(module, FrameMean)]
