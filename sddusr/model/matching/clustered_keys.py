"""Approximate nearest keys by k-means clusters: a query meets the keys of a few clusters only.

This is an inverted file, as in faiss's IVF, in batched operators: no loop runs over clusters.

- Clusters hold at most `CLUSTER_SIZE` keys. A larger one (flat regions, repeated texture) is cut
  along its longest direction into equal pieces with centres of their own.
- Keys lie in memory cluster by cluster, clusters ordered by size, so that a batch of products is
  hardly wider than its clusters.
- Pairs of query and cluster are sorted by cluster and cut into blocks of `QUERY_BLOCK` queries.
- The same keys give the same clusters in every run: the first centres are every n-th key, and sums
  run in a fixed order.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sddusr.model.matching.nearest_key import Best, plain_search
from sddusr.model.tuning import tuning

CLUSTER_SIZE = 512
"""Most keys of a cluster."""

KEYS_PER_CENTRE = 16
"""Keys that train a centre, in the mean."""

NUM_ITERATIONS = 3
"""Of k-means."""

QUERY_BLOCK = 128
"""Queries that meet a cluster in one product."""

KEY_GROUP = 16
"""Keys of which only the maximum is kept until a query's best cluster is known."""

CENTRE_GROUPS = 8
"""For each probe, groups of centres. A query probes the best centre of each of its best groups."""

CENTRE_BLOCK = 1024
"""Queries whose scores with all centres are held at once."""


class _Pairs(NamedTuple):
    """Query-cluster pairs, sorted by cluster, in blocks of one cluster each."""

    cluster: list[int]
    """Of each block, ascending."""
    query: Int[Tensor, "blocks queries"]
    """Padded by query 0."""
    slot: Int[Tensor, "q p"]
    """Where each pair lies in the flattened blocks."""


class ClusteredKeys:
    """Unit vectors in clusters.

    Attributes:
        keys: the vectors, cluster by cluster.
        order: index of each of them among the vectors that were given.
    """

    def __init__(self, keys: Float[Tensor, "k d"]) -> None:
        self.centres = _train_centres(keys)
        for _ in range(2):  # the second time, dense regions have more centres
            self.order, self.size = _cut_clusters(keys, self.centres)
            self.keys = keys.new_empty(0)  # frees the first one's copy
            self.keys = keys.index_select(0, self.order)
            self.centres = _means(self.keys, self.size)
        self.start = self.size.cumsum(0) - self.size

    @torch.no_grad()
    def best(self, query: Float[Tensor, "q d"], num_probes: int) -> Best:
        """Row of `keys` and cosine of the best key that each query meets."""
        pairs = self._pair(self._nearest_centres(query, num_probes))
        scores, groups = [], []
        for block_scores, block_groups in self._score(query, pairs):
            scores.append(block_scores)
            groups.append(block_groups)
        scores, probe = torch.cat(scores).take(pairs.slot).max(dim=1, keepdim=True)
        slot = pairs.slot.gather(1, probe).squeeze(1)
        return self._open(query, torch.cat(groups).take(slot))

    def _nearest_centres(
        self, query: Float[Tensor, "q d"], num_probes: int
    ) -> Int[Tensor, "q probes"]:
        """Clusters to look into: the best centre of each of the best groups of centres.

        Groups are interleaved, so similar centres are seldom in one.
        """
        num = len(self.centres)
        num_probes = min(num_probes, num)
        num_groups = min(num, CENTRE_GROUPS * num_probes)
        width = -(-num // num_groups) * num_groups
        found = []
        for block in query.split(CENTRE_BLOCK):
            scores = block.new_full((len(block), width), -torch.inf)
            torch.mm(block, self.centres.T, out=scores[:, :num])
            groups = scores.unflatten(1, (-1, num_groups))
            group = groups.amax(dim=1).topk(num_probes, dim=1).indices
            members = groups.gather(2, group[:, None].expand(-1, groups.shape[1], -1))
            found.append(members.argmax(dim=1) * num_groups + group)
        return torch.cat(found)

    def _pair(self, cluster: Int[Tensor, "q p"]) -> _Pairs:
        flat = cluster.flatten()
        order = flat.argsort(stable=True)
        count = torch.bincount(flat, minlength=len(self.size))
        num_blocks = (count + QUERY_BLOCK - 1) // QUERY_BLOCK
        first_block, first_pair = (n.cumsum(0) - n for n in (num_blocks, count))
        at = flat[order]
        place = first_block[at] * QUERY_BLOCK + torch.arange(len(at), device=at.device)
        place -= first_pair[at]
        clusters = torch.arange(len(count), device=at.device).repeat_interleave(num_blocks)
        query = torch.zeros(len(clusters) * QUERY_BLOCK, dtype=torch.long, device=at.device)
        query[place] = order // cluster.shape[1]
        slot = torch.empty_like(flat)
        slot[order] = place
        return _Pairs(clusters.tolist(), query.view(-1, QUERY_BLOCK), slot.view_as(cluster))

    def _score(
        self, query: Float[Tensor, "q d"], pairs: _Pairs
    ) -> Iterator[tuple[Float[Tensor, "blocks queries"], Int[Tensor, "blocks queries"]]]:
        """The best score of each pair, and the first row of the group of keys that has it."""
        room = tuning(query.device).cluster_scores
        at_once = max(1, room // (CLUSTER_SIZE * QUERY_BLOCK))
        sizes = self.size.tolist()
        scores = query.new_empty(at_once * CLUSTER_SIZE * QUERY_BLOCK)
        for start in range(0, len(pairs.cluster), at_once):
            clusters = pairs.cluster[start : start + at_once]
            width = -(-sizes[clusters[-1]] // KEY_GROUP) * KEY_GROUP  # the largest comes last
            rows = self._rows(clusters, width)
            keys = self.keys.index_select(0, rows.flatten()).view(*rows.shape, -1)
            who = pairs.query[start : start + at_once]
            queries = query.index_select(0, who.flatten()).view(*who.shape, -1)
            shape = len(clusters), width, QUERY_BLOCK
            block = scores[: shape[0] * shape[1] * shape[2]].view(shape)
            torch.bmm(keys, queries.transpose(1, 2), out=block)
            best, group = block.unflatten(1, (-1, KEY_GROUP)).amax(dim=2).max(dim=1)
            yield best, rows[:, ::KEY_GROUP].gather(1, group)

    def _rows(self, clusters: list[int], width: int) -> Int[Tensor, "blocks width"]:
        """Rows of the clusters' keys, the last one repeated up to the width."""
        cluster = torch.tensor(clusters, device=self.size.device)
        steps = torch.arange(width, device=self.size.device)
        last = self.size[cluster, None] - 1
        return self.start[cluster, None] + torch.minimum(steps, last)

    def _open(self, query: Float[Tensor, "q d"], first_row: Int[Tensor, "q"]) -> Best:
        """The best of the group of keys that begins at a row; it may reach into the next cluster,
        whose keys do no harm."""
        steps = torch.arange(KEY_GROUP, device=first_row.device)
        rows, scores = [], []
        for part, first in zip(
            query.split(CENTRE_BLOCK), first_row.split(CENTRE_BLOCK), strict=True
        ):
            members = (first[:, None] + steps).clamp_(max=len(self.keys) - 1)
            keys = self.keys.index_select(0, members.flatten()).unflatten(0, members.shape)
            score, place = torch.bmm(keys, part.unsqueeze(2)).squeeze(2).max(dim=1)
            rows.append(members.gather(1, place[:, None]).squeeze(1))
            scores.append(score)
        return Best(torch.cat(rows), torch.cat(scores))


def _train_centres(keys: Float[Tensor, "k d"]) -> Float[Tensor, "n d"]:
    """k-means on an even sample of the keys; empty clusters keep their centre."""
    num = -(-len(keys) // CLUSTER_SIZE)
    sample = keys[:: max(1, len(keys) // (num * KEYS_PER_CENTRE))]
    centres = sample[:: max(1, len(sample) // num)][:num].clone()
    for _ in range(NUM_ITERATIONS):
        owner = plain_search(sample, centres).key_index
        order, count = owner.argsort(stable=True), torch.bincount(owner, minlength=len(centres))
        means = _means(sample.index_select(0, order), count)
        centres = torch.where(count[:, None] > 0, means, centres)
    return centres


def _means(keys: Float[Tensor, "k d"], count: Int[Tensor, "n"]) -> Float[Tensor, "n d"]:
    """Directions of the means of consecutive runs of keys, summed in a fixed order."""
    return F.normalize(torch.segment_reduce(keys, "sum", lengths=count, axis=0), dim=1)


def _cut_clusters(
    keys: Float[Tensor, "k d"], centres: Float[Tensor, "n d"]
) -> tuple[Int[Tensor, "k"], Int[Tensor, "clusters"]]:
    """Keys in the order of their clusters, and the clusters' sizes, ascending.

    A cluster of more than `CLUSTER_SIZE` keys is cut into equal pieces across the line from its
    centre to its farthest key.
    """
    owner, score = plain_search(keys, centres)
    count = torch.bincount(owner, minlength=len(centres))
    first = count.cumsum(0) - count
    farthest = _sorted_by(owner, score)[first.clamp(max=len(keys) - 1)]
    towards = keys[farthest] - centres
    along = torch.cat([(k * towards[o]).sum(1)
                       for k, o in zip(keys.split(CENTRE_BLOCK), owner.split(CENTRE_BLOCK),
                                       strict=True)])  # fmt: skip
    order = _sorted_by(owner, along)
    num_pieces = (count + CLUSTER_SIZE - 1) // CLUSTER_SIZE
    parent = torch.arange(len(count), device=keys.device).repeat_interleave(num_pieces)
    number = torch.arange(len(parent), device=keys.device)
    number -= (num_pieces.cumsum(0) - num_pieces)[parent]
    edges = [count[parent] * (number + i) // num_pieces[parent] for i in (0, 1)]
    start, size = first[parent] + edges[0], edges[1] - edges[0]
    by_size = size.argsort(stable=True)
    start, size = start[by_size], size[by_size]
    places = torch.arange(len(keys), device=keys.device)
    places += (start - (size.cumsum(0) - size)).repeat_interleave(size)
    return order[places], size


def _sorted_by(owner: Int[Tensor, "k"], value: Float[Tensor, "k"]) -> Int[Tensor, "k"]:
    """Indices sorted by owner, then by value."""
    order = value.argsort(stable=True)
    return order[owner[order].argsort(stable=True)]
