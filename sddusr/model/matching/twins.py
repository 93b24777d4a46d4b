"""Query cells that have an exact copy among the keys and need no search.

The key picture is cut out of the query picture on the matching grid. Away from the cut's edges
both have the same features, so the best key of such a query is its own copy, with a cosine of 1.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sddusr.geometry.box import Box
from sddusr.model.matching.patches import SHORTEST


class CenterPlace(NamedTuple):
    """Where the key grid lies in the query grid."""

    box: Box
    """Cells."""
    reach: int
    """Cells that a feature depends on beyond its own, rounded up."""

    def interior(self, num_rows: int, num_cols: int) -> Box:
        """The query cells whose 3x3 patch of features depends on nothing outside the box.

        Both pictures are padded alike where the box ends at the border of the query grid, so no
        margin is needed there.
        """
        margin = self.reach + 1
        y0, y1, x0, x1 = self.box
        return Box(
            y0 + margin * (y0 > 0),
            y1 - margin * (y1 < num_rows),
            x0 + margin * (x0 > 0),
            x1 - margin * (x1 < num_cols),
        )


class Twins(NamedTuple):
    """Queries with a copy among the keys, and that copy; flat indices of cells."""

    query_cell: Int[Tensor, "t"]
    key_cell: Int[Tensor, "t"]


def find_twins(
    place: CenterPlace,
    query_feat: Float[Tensor, "d hq wq"],
    key_cells: Int[Tensor, "k"],
    query_cells: Int[Tensor, "q"],
) -> tuple[Twins, Int[Tensor, "rest"]]:
    """Queries that have a copy among the kept keys, and the cells of all other queries.

    Patches without any signal have no direction, a cosine of 0 and so no copy.

    Args:
        key_cells, query_cells: flat indices of the cells that the masks keep.
    """
    num_rows, num_cols = query_feat.shape[1:]
    box, inner = place.box, place.interior(num_rows, num_cols)
    y, x = query_cells // num_cols, query_cells % num_cols
    is_twin = (y >= inner.y0) & (y < inner.y1) & (x >= inner.x0) & (x < inner.x1)
    key = (y - box.y0) * box.width + x - box.x0
    key = torch.where(is_twin, key, 0)
    is_kept = torch.zeros(box.height * box.width, dtype=torch.bool, device=key.device)
    is_kept[key_cells] = True
    has_signal = F.max_pool2d(query_feat.abs().amax(0)[None], 3, 1, 1).flatten() > SHORTEST
    is_twin &= is_kept[key] & has_signal[query_cells]
    twin, other = is_twin.nonzero().squeeze(1), (~is_twin).nonzero().squeeze(1)
    return Twins(query_cells[twin], key[twin]), query_cells[other]
