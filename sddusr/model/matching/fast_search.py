"""A search whose cost grows with the picture: clusters of keys, then one round of neighbours.

Each query meets the keys of a few clusters (`clustered_keys.py`). Then it tries the keys beside
those that its four neighbours found, moved along, as in PatchMatch: a cluster that a query missed
was often found by a neighbour. A guard answers some queries exactly too.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sddusr.config.choices import MatchingMode
from sddusr.model.matching.clustered_keys import ClusteredKeys
from sddusr.model.matching.nearest_key import Progress, plain_search
from sddusr.model.matching.patches import PatchTable
from sddusr.model.matching.twins import Twins

FAST_FROM = 2**14
"""Kept keys from which `auto` is fast on a CPU: it is 1.6 times as fast there in float32, 2.1 times
where the exact search runs on bfloat16 shortlists, and 0.4 times with a fifth of them, on both
(docs/speed.md)."""

GPU_FACTOR = 8
"""How many times as many it takes on a GPU: an estimate from the exact search's rate there."""

NUM_PROBES = 12
"""Clusters that a query looks into."""

STRIP = 65536
"""Queries that are looked up at once."""

PROPAGATION_STRIP = 16384
"""Queries that try their neighbours' keys at once."""

NEIGHBOURS = (0, 1), (0, -1), (1, 0), (-1, 0)

NUM_GUARDED = 1000
"""Queries that are answered exactly too."""

GUARD_SEED = 0

LEAST_RATIO = 0.99
"""Of the mean confidence over the exact one; below it `auto` searches exactly."""

LOOK_UP_SHARE = 0.85
"""Of the time, the rest goes into the neighbours and the guard."""


class CellMatch(NamedTuple):
    """The key of each query."""

    key_cell: Int[Tensor, "q"]
    """Flat index into the key grid."""
    score: Float[Tensor, "q"]
    """Cosine."""
    confidence_ratio: float = 1.0
    """Mean score of the guard's queries over their exact one."""


class _Grid(NamedTuple):
    """The best key of every query cell so far."""

    key_cell: Int[Tensor, "hq wq"]
    score: Float[Tensor, "hq wq"]
    """-inf: takes no part."""


def goes_fast(mode: MatchingMode, num_keys: int, like: Tensor) -> bool:
    """Whether a search among so many keys, on the device of a tensor, starts as a fast one."""
    limit = FAST_FROM if like.device.type == "cpu" else GPU_FACTOR * FAST_FROM
    return mode == "fast" or (mode == "auto" and num_keys >= limit)


@torch.no_grad()
def fast_search(
    query_feat: Float[Tensor, "d hq wq"],
    key_feat: Float[Tensor, "d hk wk"],
    query_cells: Int[Tensor, "q"],
    key_cells: Int[Tensor, "k"],
    twins: Twins | None,
    progress: Progress,
) -> CellMatch:
    """Find a good key for each query, most often the best.

    Args:
        query_cells, key_cells: flat indices of the cells that take part.
        twins: matches of other queries, which their neighbours try too.
        progress: receives the share of the work that is done.
    """
    queries = PatchTable(query_feat)
    grid = _Grid(
        torch.zeros(query_feat.shape[1:], dtype=torch.long, device=query_feat.device),
        torch.full(query_feat.shape[1:], -torch.inf, dtype=query_feat.dtype,
                   device=query_feat.device),
    )  # fmt: skip
    if twins is not None:
        grid.key_cell.view(-1)[twins.query_cell] = twins.key_cell
        grid.score.view(-1)[twins.query_cell] = 1
    clusters = ClusteredKeys(PatchTable(key_feat).at(key_cells))
    cell_of_row = key_cells[clusters.order]
    done = 0
    for cells in query_cells.split(STRIP):
        found = clusters.best(queries.at(cells), NUM_PROBES)
        grid.key_cell.view(-1)[cells] = cell_of_row[found.key_index]
        grid.score.view(-1)[cells] = found.score
        done += len(cells)
        progress(LOOK_UP_SHARE * done / len(query_cells))
    row_of_cell = torch.full_like(key_feat[0], -1, dtype=torch.long)
    row_of_cell.view(-1)[cell_of_row] = torch.arange(len(cell_of_row), device=cell_of_row.device)
    for cells in query_cells.split(PROPAGATION_STRIP):
        _propagate(grid, queries.at(cells), cells, clusters.keys, row_of_cell)
    scores = grid.score.view(-1)[query_cells]
    ratio = _confidence_ratio(scores, queries, query_cells, clusters.keys)
    progress(1.0)
    return CellMatch(grid.key_cell.view(-1)[query_cells], scores, ratio)


def _propagate(
    grid: _Grid,
    query: Float[Tensor, "n d"],
    cells: Int[Tensor, "n"],
    keys: Float[Tensor, "k d"],
    row_of_cell: Int[Tensor, "hk wk"],
) -> None:
    """Take the key beside a neighbour's key where it scores higher."""
    best, score = grid.key_cell.view(-1)[cells], grid.score.view(-1)[cells]
    for step in NEIGHBOURS:
        who, candidate = _candidates(grid, cells, row_of_cell, step)
        is_new = candidate != best[who]
        who, candidate = who[is_new], candidate[is_new]
        key = keys.index_select(0, row_of_cell.view(-1)[candidate])
        found = torch.linalg.vecdot(query.index_select(0, who), key)
        is_better = found > score[who]
        who = who[is_better]
        best[who], score[who] = candidate[is_better], found[is_better]
    grid.key_cell.view(-1)[cells] = best
    grid.score.view(-1)[cells] = score


def _candidates(
    grid: _Grid, cells: Int[Tensor, "n"], row_of_cell: Int[Tensor, "hk wk"], step: tuple[int, int]
) -> tuple[Int[Tensor, "m"], Int[Tensor, "m"]]:
    """Queries whose neighbour has a key, with the key cell one step beside that."""
    dy, dx = step
    num_rows, num_cols = grid.key_cell.shape
    key_rows, key_cols = row_of_cell.shape
    y, x = cells // num_cols - dy, cells % num_cols - dx
    exists = _is_inside(y, x, num_rows, num_cols)
    neighbour = torch.where(exists, y * num_cols + x, 0)
    exists &= grid.score.view(-1)[neighbour] > -torch.inf
    key = grid.key_cell.view(-1)[neighbour]
    y, x = key // key_cols + dy, key % key_cols + dx
    exists &= _is_inside(y, x, key_rows, key_cols)
    candidate = torch.where(exists, y * key_cols + x, 0)
    exists &= row_of_cell.view(-1)[candidate] >= 0
    who = exists.nonzero().squeeze(1)
    return who, candidate[who]


def _is_inside(
    y: Int[Tensor, "n"], x: Int[Tensor, "n"], num_rows: int, num_cols: int
) -> Bool[Tensor, "n"]:
    return (y >= 0) & (y < num_rows) & (x >= 0) & (x < num_cols)


def _confidence_ratio(
    scores: Float[Tensor, "q"],
    queries: PatchTable,
    query_cells: Int[Tensor, "q"],
    keys: Float[Tensor, "k d"],
) -> float:
    """The guard: mean score of some queries, drawn evenly by a seed, over their exact one."""
    generator = torch.Generator().manual_seed(GUARD_SEED)
    drawn = torch.randperm(len(query_cells), generator=generator)[:NUM_GUARDED]
    drawn = drawn.to(query_cells.device)
    exact = plain_search(queries.at(query_cells[drawn]), keys).score.double().mean().item()
    found = scores[drawn].double().mean().item()
    return found / exact if exact > 0 else float(found >= exact)
