"""Where Ref contradicts the wide image so much that nothing of it is used, whatever was learned."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sddusr.model.evidence import NUM_EVIDENCE, NUM_STATISTICS
from sddusr.model.filters import box_mean

DOUBT_SCALE = 16.0
"""Of the logistic of a pixel's doubt as a share of its limit."""
CLEAR_SCALE, CLEAR_CENTER = 20.0, 0.65
"""Logistic of the share of the surroundings that is free of doubt: what contradicts the wide image
has parts that resemble it by chance (docs/lab-notes.md)."""
LEAST_PENALTY = -20.0
"""A lower one changes nothing and would drown other inputs."""


def doubt_penalty(
    evidence: Float[Tensor, "b 8 h w"],
    statistics: Float[Tensor, "b 12"],
    limit: float,
    around_px: int,
) -> Float[Tensor, "b 1 h w"]:
    """Logarithm of the share of Ref that doubt leaves, from 0 down to `LEAST_PENALTY`.

    Doubted is what differs from the wide image, or in its chroma alone, by more than that shows
    itself: a faint rest of something wrong is seen on a calm background.

    Args:
        limit: of the difference, as a multiple of the usual one; 0: none.
        around_px: side of the surroundings that must be free of doubt, too; 0: none.
    """
    if not limit:
        return torch.zeros_like(evidence[:, :1])
    coarse, contrast = evidence[:, NUM_EVIDENCE:].split(2, dim=1)
    calm, usual = statistics[:, NUM_STATISTICS:, None, None].split(2, dim=1)
    doubt = (coarse / (contrast + calm) / usual).amax(1, keepdim=True)
    logit = (DOUBT_SCALE * (1 - doubt / limit)).clamp_min(LEAST_PENALTY)
    # Not `logsigmoid`: ONNX takes the logarithm of a sigmoid, which its runtime rounds to 0.
    penalty = -F.softplus(-logit)
    if around_px:
        clear = box_mean(torch.sigmoid(logit), around_px)
        penalty = penalty - F.softplus(CLEAR_SCALE * (CLEAR_CENTER - clear))
    return penalty.clamp_min(LEAST_PENALTY)
