"""What super-resolving a photo gives: the picture, its matches and how it came about."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int

from sddusr.geometry.box import Box

if TYPE_CHECKING:
    from sddusr.inference.sources import Sources


class Matches(NamedTuple):
    """Which cells of the wide picture were searched for, and what was found.

    The grid has two LR pixels a cell and covers LR padded to even sides.
    """

    confidence: Float32[np.ndarray, "hq wq"]
    query_mask: Bool[np.ndarray, "hq wq"] | None
    """None: matching is dense."""
    key_mask: Bool[np.ndarray, "hk wk"] | None
    key_index: Int[np.ndarray, "hq wq"]
    """Flat index into the centre's cells; 0 where a cell took no part."""
    key_shape: tuple[int, int]
    """Rows and columns of the centre's cells."""
    is_fast: bool = False
    """Whether the matches come from a fast search, which misses some keys."""
    confidence_ratio: float | None = None
    """Of a fast search, mean confidence over the exact one, on a sample; None: there was none."""


class Upscaled(NamedTuple):
    """A picture and how it came about."""

    sr: np.ndarray
    """RGB (2h, 2w, 3) of the type asked for. float32 is as the network gives it, around 0..1:
    neither clamped nor rounded."""
    matches: Matches
    box: Box
    """The centre box that was used: the given one, snapped to the matching grid."""
    plan: Any
    """How the picture was cut; less memory can mean half precision and sampled pools."""
    sources: "Sources | None" = None
    """What the part that was asked for is made from."""
    trust: Float32[np.ndarray, "hq wq"] | None = None
    """The share of Ref's detail that was added, for each cell; None without a detail skip."""
    detail_energy: Float32[np.ndarray, "hq wq"] | None = None
    """Mean square of the detail of each cell: how much there was to be added."""
    without_ref: bool = False
    """Whether Ref was left out."""
    tokens: tuple[Any, Any] | None = None
    """The dictionaries with this picture's centre written into them (Eqs. 8 and 9), (1, n, c)
    each, tensors of the runtime."""


def is_without_ref(trust: float, without_ref: bool, has_detail_skip: bool) -> bool:
    """Whether a network is to leave Ref out.

    Raises:
        ValueError: a trust that the network cannot follow.
    """
    if not 0 <= trust <= 1:
        raise ValueError(f"trust is {trust:g}, need 0 to 1")
    if 0 < trust < 1 and not has_detail_skip:
        raise ValueError(f"trust is {trust:g}, the network has no detail skip; give 0 or 1")
    return without_ref or trust == 0
