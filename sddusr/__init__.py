"""Dual-lens super-resolution: a wide and a telephoto image in, an image twice as large out.

from sddusr import upscale

result = upscale("wide.jpg", "tele.jpg", out="sr.jpg")
result.image  # RGB, twice as high and wide
result.record["registration"]  # what was found and done
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sddusr.config import PRESETS as PRESETS
    from sddusr.config import Config as Config
    from sddusr.photos.api import UpscaleResult as UpscaleResult
    from sddusr.photos.api import upscale as upscale
    from sddusr.photos.network import Network as Network
    from sddusr.photos.network import load as load
    from sddusr.photos.options import UpscaleOptions as UpscaleOptions

__all__ = [
    "PRESETS",
    "Config",
    "Network",
    "UpscaleOptions",
    "UpscaleResult",
    "__version__",
    "load",
    "upscale",
]

try:
    __version__ = metadata.version("sddusr")
except metadata.PackageNotFoundError:  # a checkout that nobody installed
    __version__ = "0+unknown"

_MODULES = {
    "PRESETS": "sddusr.config",
    "Config": "sddusr.config",
    "Network": "sddusr.photos.network",
    "UpscaleOptions": "sddusr.photos.options",
    "UpscaleResult": "sddusr.photos.api",
    "load": "sddusr.photos.network",
    "upscale": "sddusr.photos.api",
}
"""Public name -> module; imported at the first use, since PyTorch takes a second."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'sddusr' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
