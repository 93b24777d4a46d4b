"""Whole pictures in bounded memory.

What a picture needs once (matches, the aligned Ref feature, the refined dictionaries, what pools
over the frame) is computed for the frame; the rest runs in tiles. The model knows of neither.
"""

from sddusr.inference.conversion import bicubic, quantize, to_8bit, to_array, to_tensor
from sddusr.inference.sources import Sources
from sddusr.inference.upscale import Matches, Upscaled, super_resolve

__all__ = [
    "Matches",
    "Sources",
    "Upscaled",
    "bicubic",
    "quantize",
    "super_resolve",
    "to_8bit",
    "to_array",
    "to_tensor",
]
