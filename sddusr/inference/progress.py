"""How much of a picture's work is done."""

from sddusr.config import LR_PER_CELL, SCALE
from sddusr.inference.frame import Inputs
from sddusr.model.matching import Progress
from sddusr.model.sddusr import SDDuSR, num_parameters

SEARCH_FLOPS_PER_PAIR = 100
"""Of the 288 of a 3x3 patch of 16 channels; masks leave about a third of the pairs."""


class Shares:
    """Weighs the stages by the operations they cost, roughly."""

    def __init__(self, model: SDDuSR, inputs: Inputs, progress: Progress | None) -> None:
        num_px = inputs.lr.shape[0] * inputs.lr.shape[1]
        num_ref_px = inputs.ref.shape[0] * inputs.ref.shape[1]
        cells, keys = num_px / LR_PER_CELL**2, num_ref_px / (SCALE * LR_PER_CELL) ** 2
        parts = (model.center_encoder, model.ref_encoder, model.alignment)
        searching = SEARCH_FLOPS_PER_PAIR * cells * keys
        learning = 2 * num_ref_px * sum(num_parameters(part) for part in parts)
        encoding = 2 * num_px * num_parameters(model.lr_encoder)
        fusing = 2 * SCALE**2 * num_px * num_parameters(model.fusion)
        total = searching + learning + encoding + fusing
        self.shares = {
            "search": searching / total,
            "learn": learning / total,
            "make": (encoding + fusing) / total,
        }
        self.progress = progress

    def of(self, stage: str) -> Progress:
        """What a stage tells its own share to."""
        names = list(self.shares)
        before = sum(self.shares[name] for name in names[: names.index(stage)])

        def tell(share: float) -> None:
            if self.progress is not None:
                self.progress(before + self.shares[stage] * share)

        return tell
