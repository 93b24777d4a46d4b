"""What the rooms hand to each other.

Axis letters in shapes: b batch, c channels, h w pixels of the LR picture, hc wc pixels of its
centre, hq wq and hk wk cells of the matching grid of query and key (2 LR pixels a cell, 4 HR
pixels), q and k the same grids flattened, n tokens, d numbers of a vector.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8
from torch import Tensor

from sddusr.geometry.box import Box


class Triplet(NamedTuple):
    """One row of a shard: a training window, or a whole picture that was held out."""

    id: str
    scene: str
    split: str
    """`train`, `val` or `test`."""
    lr: UInt8[np.ndarray, "h w 3"]
    ref: UInt8[np.ndarray, "2*hc 2*wc 3"]
    """The tele picture of `center_box`, at HR density."""
    hr: UInt8[np.ndarray, "2*h 2*w 3"]
    detail: Float32[np.ndarray, "h//2 w//2"]
    """Σ_C |HR − HR↓↑| averaged over each cell of the matching grid (section 3.4)."""
    detail_quantiles: Float32[np.ndarray, "101"]
    """Percentiles 0 to 100 of the whole picture's detail map, for `mask_scope="image"`."""
    center_box: Box
    """Where `ref` lies in `hr`, as the dataset gives it; seen from a training window it may lie
    beside `hr`, at negative or larger coordinates."""
    provenance: dict[str, Any]
    """Source path and SHA-256 of each member; how the picture was made or registered."""
    lr_center: UInt8[np.ndarray, "hc wc 3"] | None = None
    """What the wide lens saw of `center_box`; None where it can be cut out of `lr`."""


IMAGES = "lr", "lr_center", "ref", "hr"
"""The images of a batch."""

Images = Float[Tensor, "b 3 _ _"] | UInt8[Tensor, "b 3 _ _"]
"""RGB in 0..1, or in bytes on the way to a GPU."""


class Batch(NamedTuple):
    """Training samples."""

    ids: tuple[str, ...]
    lr: Images
    """(b, 3, h, w)"""
    lr_center: Images
    """(b, 3, hc, wc)"""
    ref: Images
    """(b, 3, 2*hc, 2*wc)"""
    hr: Images
    """(b, 3, 2*h, 2*w)"""
    mask_label: Float[Tensor, "b 1 h//2 w//2"]
    seeds: Int[Tensor, "b"]
    """A seed of its own for each sample, a function of (run seed, step, position)."""
    center_offset: Int[Tensor, "b 2"]
    """(y, x) of the centre's first pixel on `hr`'s grid, off its first one; multiples of a cell."""
    has_ref: Bool[Tensor, "b"]
    """False where the sample trains the network without Ref."""
    gumbel: Float[Tensor, "b 2 h//2 w//2"] | None = None
    """The mask's noise, where it was drawn ahead; None: the network draws it from the seeds."""


class Match(NamedTuple):
    """For each query cell, the key cell it looks most like."""

    key_index: Int[Tensor, "b q"]
    """Flat index into the key grid; 0 where the query did not take part."""
    confidence: Float[Tensor, "b q"]
    """Cosine similarity, in [-1, 1]; 0 where the query did not take part."""
    is_fast: bool = False
    """Whether it was searched by clusters of keys."""
    confidence_ratio: float | None = None
    """Of a fast search's guard: mean confidence over the exact one; None: there was none."""


class DetailOutput(NamedTuple):
    """What the detail skip added: `trust * detail`."""

    trust: Float[Tensor, "b 1 2*h 2*w"]
    """The share of the detail that was added, 0 to 1."""
    detail: Float[Tensor, "b 3 2*h 2*w"]
    """Ref's detail, at its own place inside the box and moved by the matches outside."""
    inside: Bool[Tensor, "b 1 2*h 2*w"]
    """Where it lies at its own place."""


class Output(NamedTuple):
    """What the network computed for one batch; `sr` is the picture, the rest explains it."""

    sr: Float[Tensor, "b 3 2*h 2*w"]
    confidence: Float[Tensor, "b 1 hq wq"]
    query_mask: Float[Tensor, "b 1 hq wq"] | None
    """1 where a cell takes part in the search; None where matching is dense."""
    key_mask: Bool[Tensor, "b 1 hk wk"] | None
    """None in training, where all keys take part, and where matching is dense."""
    warped_feat: Float[Tensor, "b c 2*h 2*w"]
    dict_feat: Float[Tensor, "b c 2*h 2*w"] | None
    detail: DetailOutput | None = None
    """None without the detail skip."""
