"""Sparse feature matching (Eqs. 2 to 5): find the best key for each query."""

import logging
from functools import partial
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sddusr.config import MaskConfig, MatchingConfig
from sddusr.model.matching.fast_search import (
    LEAST_RATIO,
    CellMatch,
    MatchingMode,
    fast_search,
    goes_fast,
)
from sddusr.model.matching.features import MatchingFeatures
from sddusr.model.matching.mask import MaskGenerator, gumbel_noise
from sddusr.model.matching.nearest_key import CERTAIN, PROBABLE, KeySearch, Progress, best_key
from sddusr.model.matching.patches import PatchTable, unit_patches
from sddusr.model.matching.soft_assignment import SoftAssignment
from sddusr.model.matching.transfer import transfer_patches
from sddusr.model.matching.twins import CenterPlace, find_twins
from sddusr.model.tuning import tuning
from sddusr.types import Match

log = logging.getLogger(__name__)


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


def sparse_match(
    query_feat: Float[Tensor, "b d hq wq"],
    key_feat: Float[Tensor, "b d hk wk"],
    query_mask: Bool[Tensor, "b 1 hq wq"] | None,
    key_mask: Bool[Tensor, "b 1 hk wk"] | None,
    progress: Progress | None = None,
    allowance: float = CERTAIN,
    *,
    mode: MatchingMode = "exact",
    place: CenterPlace | None = None,
) -> Match:
    """Only kept queries meet kept keys; the others have confidence 0 (section 3.2, inference).

    What is held are the patches of the kept keys and of some queries at a time. None keeps
    everything.

    Args:
        progress: receives the share of the queries that were answered.
        allowance: for rounding, as `KeySearch` takes it.
        place: where the key grid was cut out of the query grid: queries that are copies of a key
            are answered without a search.
    """
    num, _, rows, cols = query_feat.shape
    key_index = query_feat.new_zeros(num, rows * cols, dtype=torch.long)
    confidence = query_feat.new_zeros(num, rows * cols)
    ratios, is_fast = [], False
    for i, features in enumerate(zip(query_feat, key_feat, strict=True)):
        queries = _kept_cells(query_feat[i], query_mask, i)
        keys = _kept_cells(key_feat[i], key_mask, i)
        if not len(queries) or not len(keys):
            continue
        twins = None
        if place is not None:
            twins, queries = find_twins(place, query_feat[i], keys, queries)
            key_index[i, twins.query_cell] = twins.key_cell
            confidence[i, twins.query_cell] = 1
        report = partial(_report, progress, i, num)
        if not len(queries):
            report(1.0)
            continue
        found = None
        if goes_fast(mode, len(keys), query_feat):
            found = fast_search(*features, queries, keys, twins, partial(_report_part, report, 0))
            ratios.append(found.confidence_ratio)
            if not _is_good_enough(found.confidence_ratio, mode):
                found, report = None, partial(_report_part, report, 1)
        is_fast = found is not None
        if found is None:
            found = _exact_search(*features, queries, keys, allowance, report)
        report(1.0)
        key_index[i, queries], confidence[i, queries] = found.key_cell, found.score
    return Match(key_index, confidence, is_fast, min(ratios, default=None))


def _exact_search(
    query_feat: Float[Tensor, "d hq wq"],
    key_feat: Float[Tensor, "d hk wk"],
    query_cells: Int[Tensor, "q"],
    key_cells: Int[Tensor, "k"],
    allowance: float,
    progress: Progress,
) -> CellMatch:
    """The best key of each query, in strips of queries."""
    index = KeySearch(PatchTable(key_feat).at(key_cells), allowance)
    queries, done = PatchTable(query_feat), 0
    found = query_cells.new_zeros(len(query_cells)), query_feat.new_zeros(len(query_cells))
    for cells in query_cells.split(tuning(query_feat.device).patch_cells):
        key, score = index.best(queries.at(cells))
        found[0][done : done + len(cells)] = key_cells[key]
        found[1][done : done + len(cells)] = score
        done += len(cells)
        progress(done / len(query_cells))
    return CellMatch(*found)


def _report(progress: Progress | None, sample: int, num_samples: int, share: float) -> None:
    if progress is not None:
        progress((sample + share) / num_samples)


def _report_part(progress: Progress, half: int, share: float) -> None:
    """The first half is the fast search, the second an exact one that may have to follow."""
    progress((half + share) / 2)


def _is_good_enough(ratio: float, mode: MatchingMode) -> bool:
    if ratio >= LEAST_RATIO:
        return True
    log.warning(
        "fast matching reaches %.3f of the exact confidence, less than %.2f; %s",
        ratio,
        LEAST_RATIO,
        "--matching auto searches exactly instead" if mode == "fast" else "searching exactly",
    )
    return mode == "fast"


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
