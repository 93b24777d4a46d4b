"""Whole pictures in bounded memory.

What a picture needs once (matches, the aligned Ref feature, the refined dictionaries, what pools
over the frame) is computed for the frame; the rest runs in tiles. The model knows of neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sddusr.inference.conversion import bicubic as bicubic
    from sddusr.inference.conversion import quantize as quantize
    from sddusr.inference.conversion import to_8bit as to_8bit
    from sddusr.inference.conversion import to_array as to_array
    from sddusr.inference.conversion import to_tensor as to_tensor
    from sddusr.inference.result import Matches as Matches
    from sddusr.inference.result import Upscaled as Upscaled
    from sddusr.inference.sources import Sources as Sources
    from sddusr.inference.upscale import super_resolve as super_resolve

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

_MODULES = {
    "Matches": "result",
    "Sources": "sources",
    "Upscaled": "result",
    "bicubic": "conversion",
    "quantize": "conversion",
    "super_resolve": "upscale",
    "to_8bit": "conversion",
    "to_array": "conversion",
    "to_tensor": "conversion",
}
"""Public name -> module; imported at the first use: an exported package runs without PyTorch."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'sddusr.inference' has no attribute {name!r}")
    return getattr(import_module(f"sddusr.inference.{_MODULES[name]}"), name)
