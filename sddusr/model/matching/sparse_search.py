"""The search of inference: only kept queries meet kept keys, exactly or by clusters."""

import logging
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sddusr.model.matching.fast_search import (
    LEAST_RATIO,
    CellMatch,
    MatchingMode,
    fast_search,
    goes_fast,
)
from sddusr.model.matching.nearest_key import CERTAIN, KeySearch, Progress
from sddusr.model.matching.patches import PatchTable
from sddusr.model.matching.twins import CenterPlace, find_twins
from sddusr.model.tuning import tuning
from sddusr.types import Match

log = logging.getLogger(__name__)


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
