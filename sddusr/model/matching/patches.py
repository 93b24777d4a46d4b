"""3x3 patches of features as unit vectors (Eq. 2)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from sddusr.model.ordered import reflect_pad

SHORTEST = 1e-12
"""Smallest length that a patch is divided by, as in `torch.nn.functional.normalize`."""


def unit_patches(features: Float[Tensor, "b d h w"]) -> Float[Tensor, "b h*w 9*d"]:
    """3x3 patches at stride 1, reflected at the border, of length 1 (Eq. 2)."""
    patches = F.unfold(reflect_pad(features), kernel_size=3)
    return F.normalize(rearrange(patches, "b d q -> b q d"), dim=-1)


class PatchTable:
    """Features of a picture, prepared so that patches of any of its cells can be gathered.

    Patches are those of `unit_patches` with their values in another order: the nine places, each
    with its features, so that a patch is nine stretches of memory.
    """

    def __init__(self, features: Float[Tensor, "d h w"]) -> None:
        padded = reflect_pad(features.unsqueeze(0))
        self._cols, self._width = features.shape[2], padded.shape[3]
        self._table = rearrange(padded, "1 d y x -> (y x) d").contiguous()
        steps = torch.arange(3, device=features.device)
        self._around = (steps[:, None] * self._width + steps).flatten()

    def at(self, cells: Int[Tensor, "n"]) -> Float[Tensor, "n _"]:
        """Patches of length 1 of the cells with these flat indices."""
        corners = cells // self._cols * self._width + cells % self._cols
        patches = F.embedding(corners[:, None] + self._around, self._table).flatten(1)
        return patches.div_(patches.norm(dim=1, keepdim=True).clamp_min_(SHORTEST))
