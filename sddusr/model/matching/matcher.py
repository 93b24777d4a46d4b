"""Sparse feature matching: who looks like whom (Eqs. 2 to 5)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sddusr.config import MaskConfig, MatchingConfig
from sddusr.model.matching.features import MatchingFeatures
from sddusr.model.matching.mask import MaskGenerator, gumbel_noise
from sddusr.model.matching.nearest_key import CERTAIN, PROBABLE, KeySearch, best_key
from sddusr.model.matching.soft_assignment import SoftAssignment
from sddusr.model.matching.transfer import transfer_patches
from sddusr.types import Match

STRIP = 16384
"""Cells whose patches are cut at once."""

SHORTEST = 1e-12
"""Least length that a patch is divided by, as in `torch.nn.functional.normalize`."""

Progress = Callable[[float], None]
"""Told the share of the work that is done, 0 to 1."""


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
    ) -> Transfer:
        """Training searches everything and masks what was found; inference searches what is kept.

        Args:
            lr: the picture that asks.
            lr_center: the picture that answers.
            aligned_feat: what is moved, on twice `lr_center`'s grid.
            seeds: one for each sample, for the mask's Gumbel noise in training.
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
                query_feat, key_feat, aligned_feat.float(), constant, seeds
            )

    def _dense_then_mask(
        self,
        query_feat: Tensor,
        key_feat: Tensor,
        aligned_feat: Tensor,
        constant: Tensor,
        seeds: Tensor | None,
    ) -> Transfer:
        query, key = unit_patches(query_feat), unit_patches(key_feat)
        index = torch.stack([best_key(q, k)[0] for q, k in zip(query, key, strict=True)])
        confidence = (query * _rows(key, index)).sum(-1)
        if self.mask_generator is None:
            everything = torch.ones_like(query_feat[:, :1])
            warped = transfer_patches(aligned_feat, index, everything)
            confidence = _as_map(confidence, query_feat)
            return Transfer(warped, confidence, None, None, index, everything)
        mask = self.mask_generator.sample(query_feat, self._gumbel(query_feat, seeds))
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
    ) -> Search:
        """The search of inference: only kept queries meet kept keys.

        Masks and scores are float32 all the same where the network runs in bfloat16; there, only a
        shortlist of keys may be chosen with less than certainty.
        """
        device = query_feat.device.type
        allowance = PROBABLE if torch.is_autocast_enabled(device) else CERTAIN
        with torch.autocast(device, enabled=False):
            query_mask, key_mask = self._keep(query_feat), None
            if self.mask_keys:
                key_mask = self._keep(key_feat)
            match = sparse_match(query_feat, key_feat, query_mask, key_mask, progress, allowance)
        weight = torch.ones_like(query_feat[:, :1]) if query_mask is None else query_mask.float()
        if key_mask is not None:
            weight = weight * key_mask.flatten(1).any(1).view(-1, 1, 1, 1)
        confidence = _as_map(match.confidence, query_feat)
        return Search(match.key_index, confidence, weight, query_mask is not None, key_mask)

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


def unit_patches(features: Float[Tensor, "b d h w"]) -> Float[Tensor, "b h*w 9*d"]:
    """3x3 patches at stride 1, reflected at the border, of length 1 (Eq. 2)."""
    patches = F.unfold(F.pad(features, (1, 1, 1, 1), mode="reflect"), kernel_size=3)
    return F.normalize(rearrange(patches, "b d q -> b q d"), dim=-1)


def sparse_match(
    query_feat: Float[Tensor, "b d hq wq"],
    key_feat: Float[Tensor, "b d hk wk"],
    query_mask: Bool[Tensor, "b 1 hq wq"] | None,
    key_mask: Bool[Tensor, "b 1 hk wk"] | None,
    progress: Progress | None = None,
    allowance: float = CERTAIN,
) -> Match:
    """Only kept queries meet kept keys; the others have confidence 0 (section 3.2, inference).

    What is held are the patches of the kept keys and of some queries at a time. None keeps
    everything.

    Args:
        progress: told the share of the queries that were answered.
        allowance: for rounding, as `KeySearch` takes it.
    """
    num, _, rows, cols = query_feat.shape
    key_index = query_feat.new_zeros(num, rows * cols, dtype=torch.long)
    confidence = query_feat.new_zeros(num, rows * cols)
    for i in range(num):
        asking = _kept_cells(query_feat[i], query_mask, i)
        answering = _kept_cells(key_feat[i], key_mask, i)
        if not len(asking) or not len(answering):
            continue
        among = KeySearch(PatchTable(key_feat[i]).at(answering), allowance)
        queries, done = PatchTable(query_feat[i]), 0
        for cells in asking.split(STRIP):
            found, score = among.best(queries.at(cells))
            key_index[i, cells] = answering[found]
            confidence[i, cells] = score
            done += len(cells)
            if progress is not None:
                progress((i + done / len(asking)) / num)
    return Match(key_index, confidence)


class PatchTable:
    """A picture's features, made ready to cut patches of any of its cells.

    Patches are as `unit_patches` has them, in another order of values: the nine places, each with
    its features, so that a patch is nine stretches of memory.
    """

    def __init__(self, features: Float[Tensor, "d h w"]) -> None:
        padded = F.pad(features.unsqueeze(0), (1, 1, 1, 1), mode="reflect")
        self._cols, self._width = features.shape[2], padded.shape[3]
        self._table = rearrange(padded, "1 d y x -> (y x) d").contiguous()
        steps = torch.arange(3, device=features.device)
        self._around = (steps[:, None] * self._width + steps).flatten()

    def at(self, cells: Int[Tensor, "n"]) -> Float[Tensor, "n _"]:
        """Patches of length 1 of the cells with these flat indices."""
        corners = cells // self._cols * self._width + cells % self._cols
        patches = F.embedding(corners[:, None] + self._around, self._table).flatten(1)
        return patches.div_(patches.norm(dim=1, keepdim=True).clamp_min_(SHORTEST))


def _kept_cells(
    features: Float[Tensor, "d h w"], mask: Bool[Tensor, "b 1 h w"] | None, i: int
) -> Int[Tensor, "kept"]:
    """Flat indices, in order."""
    if mask is None:
        return torch.arange(features[0].numel(), device=features.device)
    return mask[i].flatten().nonzero().squeeze(1)


def _rows(key: Float[Tensor, "b k d"], index: Int[Tensor, "b q"]) -> Float[Tensor, "b q d"]:
    return key.gather(1, index.unsqueeze(-1).expand(-1, -1, key.shape[-1]))


def _as_map(flat: Float[Tensor, "b q"], like: Tensor) -> Float[Tensor, "b 1 hq wq"]:
    return rearrange(flat, "b (y x) -> b 1 y x", y=like.shape[2])
