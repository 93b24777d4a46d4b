"""The parts of the network as modules of tensors, each of which becomes one graph.

They call the network's own methods and add no arithmetic. These are for the search and for what a
photo needs once; `frame_graphs` has those that make the picture.
"""

import copy
from typing import ClassVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sddusr.imaging.resize import bicubic_up
from sddusr.model.dictionary import TokenDictionary
from sddusr.model.evidence import block_maps, measure_evidence, split_bands
from sddusr.model.matching.mask import MaskGenerator
from sddusr.model.normed_dictionary import NormedDictionary
from sddusr.model.refinement import Running, in_full
from sddusr.model.sddusr import SDDuSR


class Part(nn.Module):
    """A part of a network, which holds the modules that it uses and no others."""

    uses: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: SDDuSR) -> None:
        super().__init__()
        self.model = copy.copy(model)
        self.model._modules = {
            name: module
            for name, module in model._modules.items()
            if name in self.uses or module is None
        }

    @property
    def dictionary(self) -> TokenDictionary | NormedDictionary:
        return cast(TokenDictionary, self.model.dictionary)


class Features(Part):
    """Matching features of a picture."""

    uses = ("matching",)

    def forward(self, picture: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 d h//2 w//2"]:
        return self.model.matching.features(picture).float()


class MaskSum(Part):
    """What the mask generator reads of the frame, summed over a part of it."""

    uses = ("matching",)

    def forward(self, features: Float[Tensor, "1 d h w"]) -> Float[Tensor, "1 1 1 half"]:
        with in_full(features):
            return cast(MaskGenerator, self.model.matching.mask_generator).shared_sum(features)


class MaskKeep(Part):
    """Which cells take part in the search."""

    uses = ("matching",)

    def forward(
        self, features: Float[Tensor, "1 d h w"], mean: Float[Tensor, "1 1 1 half"]
    ) -> Bool[Tensor, "1 1 h w"]:
        with in_full(features):
            generator = cast(MaskGenerator, self.model.matching.mask_generator)
            return generator.keep_cells(features, mean)


class Flow(Part):
    """Where each pixel of the centre lies in Ref."""

    uses = ("alignment",)

    def forward(
        self, center: Float[Tensor, "1 3 hc wc"], ref: Float[Tensor, "1 3 2*hc 2*wc"]
    ) -> Float[Tensor, "1 2 2*hc 2*wc"]:
        return self.model.alignment.flow(center, ref)


class CenterEncoder(Part):
    """Feature of the centre."""

    uses = ("center_encoder",)

    def forward(self, center: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 c 2*h 2*w"]:
        return self.model.center_encoder(center).float()


class RefEncoder(Part):
    """Feature of Ref."""

    uses = ("ref_encoder",)

    def forward(self, ref: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 c h w"]:
        return self.model.ref_encoder(ref).float()


class Align(Part):
    """A window of Ref's feature, aligned to the centre."""

    uses = ("alignment",)

    def forward(
        self,
        flow: Float[Tensor, "1 2 h w"],
        center_feat: Float[Tensor, "1 c h w"],
        ref_feat: Float[Tensor, "1 c rows cols"],
        corner: Int[Tensor, "2"],
    ) -> Float[Tensor, "1 c h w"]:
        """Args:
        corner: (y, x) of the window in what `ref_feat` covers.
        """
        # A graph reads numbers of its inputs; the network is given Python's.
        y, x = corner.unbind() if torch.compiler.is_exporting() else corner.tolist()
        at = cast(tuple[int, int], (y, x))
        return self.model.alignment.align(flow, center_feat, ref_feat, at).float()


class TrustedAlign(Align):
    """The same, weighed by the evidence for Ref; and the logit of the trust in its detail."""

    uses = ("alignment", "trust")

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        flow: Float[Tensor, "1 2 h w"],
        center_feat: Float[Tensor, "1 c h w"],
        ref_feat: Float[Tensor, "1 c rows cols"],
        corner: Int[Tensor, "2"],
        evidence: Float[Tensor, "1 8 h w"],
        penalty: Float[Tensor, "1 1 h w"],
        statistics: Float[Tensor, "1 12"],
        strength: Float[Tensor, ""],
    ) -> tuple[Float[Tensor, "1 c h w"], Float[Tensor, "1 1 h w"]]:
        aligned_feat = super().forward(flow, center_feat, ref_feat, corner)
        assert self.model.trust is not None
        share, logit = self.model.trust.in_ref(
            evidence, penalty, statistics, center_feat, aligned_feat
        )
        return strength * share * aligned_feat, logit.expand(-1, -1, *flow.shape[2:]) + 0.0


class Enlarge(Part):
    """The bicubic picture, twice as large."""

    def forward(self, picture: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 3 2*h 2*w"]:
        return bicubic_up(picture)


class Evidence(Part):
    """Ref's detail and the centre's look (4 maps), and the evidence for Ref (8 maps)."""

    def forward(
        self, ref: Float[Tensor, "1 3 h w"], enlarged: Float[Tensor, "1 3 h w"]
    ) -> tuple[Float[Tensor, "1 4 h w"], Float[Tensor, "1 8 h w"]]:
        window_px = self.model.detail_window_px
        found = measure_evidence(split_bands(ref, enlarged, window_px), window_px)
        return torch.cat([found.detail, found.look], 1), found.evidence


class Penalty(Part):
    """What doubt in Ref takes off the logits."""

    uses = ("trust",)

    def forward(
        self, evidence: Float[Tensor, "1 8 h w"], statistics: Float[Tensor, "1 12"]
    ) -> Float[Tensor, "1 1 h w"]:
        assert self.model.trust is not None
        return self.model.trust.penalty(evidence, statistics)


class BlockMaps(Part):
    """What the statistics are means of."""

    def forward(
        self, ref: Float[Tensor, "1 3 h w"], enlarged: Float[Tensor, "1 3 h w"]
    ) -> Float[Tensor, "1 13 h w"]:
        return block_maps(split_bands(ref, enlarged, self.model.detail_window_px))


class RefinePiece(Part):
    """The attention over the centre with one more piece of it."""

    uses = ("dictionary",)

    def forward(
        self,
        center_feat: Float[Tensor, "1 c 1 n"],
        aligned_feat: Float[Tensor, "1 c 1 n"],
        *running: Tensor,
    ) -> tuple[Tensor, ...]:
        """Args:
        running: peak, weight, centre and aligned; -1e30 and zeros before the first piece.
        """
        query = self.dictionary.update_query_of_tokens()
        made = self.dictionary.add_piece(query, Running(*running), center_feat, aligned_feat)
        return tuple(cast(Running, made))


class RefineTokens(Part):
    """Both dictionaries, from the attention over the whole centre."""

    uses = ("dictionary",)

    def forward(self, *running: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.dictionary.refined(Running(*running))
