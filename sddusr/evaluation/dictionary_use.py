"""How much a picture's result owes to the token dictionaries."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sddusr.config import SCALE
from sddusr.geometry.box import Box, crop, to_lr
from sddusr.inference import to_tensor
from sddusr.model.normed_dictionary import ConstantFeature
from sddusr.model.sddusr import SDDuSR

WINDOW_PX = 64
"""LR pixels a side of what is measured at once."""
WINDOWS = 3
"""Rows and columns of evenly spread windows of the wide picture."""


class DictionaryUse(NamedTuple):
    """How widely both attentions spread: 1 token or pixel, or nearly all of them alike."""

    lookup_perplexity: float
    """Tokens that a pixel of the wide picture reads: exp of the mean entropy of A_L (Eq. 10)."""
    update_share: float
    """Share of the centre's pixels that a token reads: exp of the mean entropy of A_up (Eq. 6)
    over their number."""
    mean_feat: Float[Tensor, "1 c 1 1"]
    """Mean of F^Dict."""


@torch.inference_mode()
def measure_dictionary(
    model: SDDuSR, lr: np.ndarray, box: Box, tokens: tuple[Tensor, Tensor]
) -> DictionaryUse | None:
    """Measure on windows of the wide picture and in the middle of its centre.

    Attentions of the encoder that pool over the frame pool over the window here.

    Args:
        lr: RGB (h, w, 3), uint8 or uint16.
        box: the centre, HR pixels, on the matching grid.
        tokens: the refined dictionaries of this picture.

    Returns:
        None where the network has no tokens.
    """
    dictionary = model.dictionary
    if dictionary is None or isinstance(dictionary, ConstantFeature):
        return None
    device = next(model.parameters()).device
    entropies, means = [], []
    for window in _windows(lr.shape[0], lr.shape[1]):
        lr_feat = model.lr_encoder(to_tensor(crop(lr, window))[None].to(device))
        entropies.append(_entropy(dictionary.lookup_weights(lr_feat, tokens[0])))
        means.append(dictionary.look_up(lr_feat, *tokens).float().mean((2, 3), keepdim=True))
    center = crop(lr, _middle(to_lr(box)))
    center_feat = model.center_encoder(to_tensor(center)[None].to(device))
    weights = dictionary.update_weights(center_feat)
    return DictionaryUse(
        lookup_perplexity=torch.stack(entropies).mean().exp().item(),
        update_share=_entropy(weights).exp().item() / weights.shape[-1],
        mean_feat=torch.stack(means).mean(0),
    )


@contextmanager
def constant_dictionary(model: SDDuSR, feature: Float[Tensor, "1 c 1 1"]) -> Iterator[None]:
    """Inside, one vector stands in place of F^Dict."""
    kept, constant = model.dictionary, ConstantFeature(model.dim)
    constant.vector = torch.nn.Parameter(feature.clone(), requires_grad=False)
    model.dictionary = constant
    try:
        yield
    finally:
        model.dictionary = kept


def _entropy(weights: Float[Tensor, "b heads rows cols"]) -> Float[Tensor, ""]:
    """Mean over rows, nepers."""
    return torch.special.entr(weights).sum(-1).mean()


def _windows(rows: int, cols: int) -> Iterator[Box]:
    height, width = (min(WINDOW_PX, side // SCALE * SCALE) for side in (rows, cols))
    ends = (rows - height, cols - width)
    starts = [[round(end * i / (WINDOWS - 1)) for i in range(WINDOWS)] for end in ends]
    for y in starts[0]:
        for x in starts[1]:
            yield Box(y, y + height, x, x + width)


def _middle(center: Box) -> Box:
    """Of the centre, LR pixels."""
    height, width = (min(WINDOW_PX, side) for side in (center.height, center.width))
    y, x = center.y0 + (center.height - height) // 2, center.x0 + (center.width - width) // 2
    return Box(y, y + height, x, x + width)
