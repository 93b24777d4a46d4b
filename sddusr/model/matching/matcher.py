"""Sparse feature matching (Eqs. 2 to 5): find the best key for each query."""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sddusr.config import MaskConfig, MatchingConfig
from sddusr.config.choices import MatchingMode
from sddusr.model.matching.features import MatchingFeatures
from sddusr.model.matching.mask import MaskGenerator, gumbel_noise
from sddusr.model.matching.nearest_key import CERTAIN, PROBABLE, Progress, best_key
from sddusr.model.matching.patches import unit_patches
from sddusr.model.matching.soft_assignment import SoftAssignment
from sddusr.model.matching.sparse_search import sparse_match
from sddusr.model.matching.transfer import transfer_patches
from sddusr.model.matching.twins import CenterPlace


class Transfer(NamedTuple):
    """What matching hands to the fusion, and the masks that explain it."""

    warped_feat: Float[Tensor, "b c 4*hq 4*wq"]
    confidence: Float[Tensor, "b 1 hq wq"]
    query_mask: Float[Tensor, "b 1 hq wq"] | None
    key_mask: Bool[Tensor, "b 1 hk wk"] | None
    key_index: Int[Tensor, "b q"]
    """For each query cell, the flat index of the key cell whose patch was moved there."""
    weight: Float[Tensor, "b 1 hq wq"]
    """1 where a patch was moved, else 0; without gradients."""


class Search(NamedTuple):
    """What inference found for each query cell."""

    key_index: Int[Tensor, "b q"]
    """Flat index into the key grid; 0 where the query did not take part."""
    confidence: Float[Tensor, "b 1 hq wq"]
    weight: Float[Tensor, "b 1 hq wq"]
    """1 where a cell took part in the search and there was a key to be found, else 0."""
    is_sparse: bool
    """Whether a mask chose the queries."""
    key_mask: Bool[Tensor, "b 1 hk wk"] | None
    is_fast: bool = False
    """Whether keys were searched by clusters."""
    confidence_ratio: float | None = None
    """Of a fast search's guard, also where it led to an exact search; None: there was none."""


class SparseMatching(nn.Module):
    """I^LR and I^LRC to a key for each query, and the Ref feature re-assembled by them."""

    def __init__(self, config: MatchingConfig, mask: MaskConfig) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.mask_keys = mask.mask_keys
        self.features = MatchingFeatures(config)
        self.mask_generator = MaskGenerator(config.dim) if mask.enabled else None

    def forward(
        self,
        lr: Float[Tensor, "b 3 h w"],
        lr_center: Float[Tensor, "b 3 hc wc"],
        aligned_feat: Float[Tensor, "b c 2*hc 2*wc"],
        seeds: Int[Tensor, "b"] | None = None,
        gumbel: Float[Tensor, "b 2 hq wq"] | None = None,
    ) -> Transfer:
        """Training searches everything and masks what was found; inference searches what is kept.

        Args:
            lr: the picture that asks.
            lr_center: the picture that answers.
            aligned_feat: what is moved, on twice `lr_center`'s grid.
            seeds: one for each sample, for the mask's Gumbel noise in training.
            gumbel: that noise, where it was drawn before.
        """
        query_feat, key_feat = self.features(lr).float(), self.features(lr_center).float()
        if not self.training:
            return self._mask_then_sparse(query_feat, key_feat, aligned_feat.float())
        # What the softmax's path multiplies by; the gather itself stays exact.
        is_coarse = torch.is_autocast_enabled(lr.device.type)
        constant = aligned_feat.detach().to(torch.bfloat16 if is_coarse else query_feat.dtype)
        # The best keys of a query differ by less than bfloat16 can tell apart.
        with torch.autocast(lr.device.type, enabled=False):
            return self._dense_then_mask(
                query_feat, key_feat, aligned_feat.float(), constant, seeds, gumbel
            )

    def _dense_then_mask(
        self,
        query_feat: Tensor,
        key_feat: Tensor,
        aligned_feat: Tensor,
        constant: Tensor,
        seeds: Tensor | None,
        gumbel: Tensor | None,
    ) -> Transfer:
        query, key = unit_patches(query_feat), unit_patches(key_feat)
        index = torch.stack([best_key(q, k)[0] for q, k in zip(query, key, strict=True)])
        confidence = (query * _rows(key, index)).sum(-1)
        if self.mask_generator is None:
            everything = torch.ones_like(query_feat[:, :1])
            warped = transfer_patches(aligned_feat, index, everything)
            confidence = _as_map(confidence, query_feat)
            return Transfer(warped, confidence, None, None, index, everything)
        if gumbel is None:
            gumbel = self._gumbel(query_feat, seeds)
        mask = self.mask_generator.sample(query_feat, gumbel)
        warped, confidence = SoftAssignment.apply(
            transfer_patches(aligned_feat, index, mask),
            confidence,
            query,
            key,
            constant,
            mask.detach(),
            self.temperature,
        )
        confidence = _as_map(confidence, query_feat) * mask
        return Transfer(warped, confidence, mask, None, index, mask.detach())

    def search(
        self,
        query_feat: Float[Tensor, "b d hq wq"],
        key_feat: Float[Tensor, "b d hk wk"],
        progress: Progress | None = None,
        mode: MatchingMode = "exact",
        place: CenterPlace | None = None,
    ) -> Search:
        """The search of inference: only kept queries meet kept keys.

        Masks and scores are float32 all the same where the network runs in bfloat16; there, only a
        shortlist of keys may be chosen with less than certainty.

        Args:
            place: where the key grid was cut out of the query grid; None: it was not.
        """
        device = query_feat.device.type
        allowance = PROBABLE if torch.is_autocast_enabled(device) else CERTAIN
        with torch.autocast(device, enabled=False):
            query_mask, key_mask = self._keep(query_feat), None
            if self.mask_keys:
                key_mask = self._keep(key_feat)
            match = sparse_match(
                query_feat,
                key_feat,
                query_mask,
                key_mask,
                progress,
                allowance,
                mode=mode,
                place=place,
            )
        weight = torch.ones_like(query_feat[:, :1]) if query_mask is None else query_mask.float()
        if key_mask is not None:
            weight = weight * key_mask.flatten(1).any(1).view(-1, 1, 1, 1)
        confidence = _as_map(match.confidence, query_feat)
        return Search(
            match.key_index,
            confidence,
            weight,
            query_mask is not None,
            key_mask,
            match.is_fast,
            match.confidence_ratio,
        )

    def _mask_then_sparse(
        self, query_feat: Tensor, key_feat: Tensor, aligned_feat: Tensor
    ) -> Transfer:
        found = self.search(query_feat, key_feat)
        warped = transfer_patches(aligned_feat, found.key_index, found.weight)
        query_mask = found.weight if found.is_sparse else None
        return Transfer(
            warped, found.confidence, query_mask, found.key_mask, found.key_index, found.weight
        )

    def _keep(self, features: Tensor) -> Bool[Tensor, "b 1 h w"] | None:
        return None if self.mask_generator is None else self.mask_generator.keep(features)

    @staticmethod
    def _gumbel(features: Tensor, seeds: Tensor | None) -> Tensor:
        if seeds is None:
            seeds = torch.randint(2**31, (len(features),))
        return gumbel_noise(seeds, *features.shape[2:]).to(features.device)


def _rows(key: Float[Tensor, "b k d"], index: Int[Tensor, "b q"]) -> Float[Tensor, "b q d"]:
    return key.gather(1, index.unsqueeze(-1).expand(-1, -1, key.shape[-1]))


def _as_map(flat: Float[Tensor, "b q"], like: Tensor) -> Float[Tensor, "b 1 hq wq"]:
    return rearrange(flat, "b (y x) -> b 1 y x", y=like.shape[2])
