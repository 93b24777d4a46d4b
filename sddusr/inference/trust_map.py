"""How far Ref's detail was trusted, for each cell of the matching grid."""

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float32

from sddusr.config import LR_PER_CELL
from sddusr.geometry.box import Box
from sddusr.inference.conversion import download
from sddusr.model.matching.transfer import CELL
from sddusr.types import DetailOutput


class TrustMap:
    """Collects the trust of all tiles of a frame.

    Args:
        rows, cols: cells of the frame.
    """

    def __init__(self, rows: int, cols: int) -> None:
        self.trust: Float32[np.ndarray, "rows cols"] = np.zeros((rows, cols), np.float32)
        """Mean over a cell of the share of the detail that is added, 0 to 1."""
        self.energy: Float32[np.ndarray, "rows cols"] = np.zeros((rows, cols), np.float32)
        """Mean square of the detail: how much there was to be added."""

    def put(self, skip: DetailOutput, core: Box) -> None:
        """Write a tile; `core` is in LR pixels, on whole cells."""
        here = (
            slice(core.y0 // LR_PER_CELL, core.y1 // LR_PER_CELL),
            slice(core.x0 // LR_PER_CELL, core.x1 // LR_PER_CELL),
        )
        energy = skip.detail.square().mean(1, keepdim=True)
        means = F.avg_pool2d(skip.trust, CELL)[0, 0], F.avg_pool2d(energy, CELL)[0, 0]
        self.trust[here], self.energy[here] = download(*means)
