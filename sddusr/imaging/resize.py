"""The one bicubic of the project: Keys' cubic with a = -0.5, antialiased, as Pillow's and MATLAB's.

Torch's own default (a = -0.75, no antialiasing) is a sharper filter that no other tool calls
bicubic, so it would move every figure that names bicubic as its reference.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sddusr.config import SCALE


def bicubic_up(picture: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
    """Twice as large."""
    return F.interpolate(picture, scale_factor=SCALE, mode="bicubic", antialias=True)


def bicubic_down(picture: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h//2 w//2"]:
    """Half as large."""
    return F.interpolate(picture, scale_factor=1 / SCALE, mode="bicubic", antialias=True)
