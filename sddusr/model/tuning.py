"""The sizes that work is cut into, by device: all that is tuned for a device's memory is here.

Small pieces stay in a processor's caches. On a GPU every piece costs launches, so they are as large
as its memory allows. Results differ by rounding only.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Sizes and choices of one kind of device."""

    transfer_cells: int
    """Cells whose patches are summed at once."""
    warp_channels: int
    """Channels that are warped as a sample of their own; 0: all at once."""
    plane_px: int
    """Pixels whose channels are copied to planes at once; 0: all of them."""
    deform_rows: int
    """Rows of an image that a composed deformable convolution sums over at once."""
    deform_operator: bool
    """Whether torchvision's deformable convolution is faster than the composed one."""
    patch_cells: int
    """Cells whose patches are cut at once in a search."""
    search_queries: int
    search_keys: int
    """Queries and keys whose scores are held at once, at most."""
    soft_queries: int
    """Queries whose softmax is held at once in backward."""
    soft_batched: bool
    """Whether backward follows the softmax of masked queries too, of all samples at once: more
    products, but no wait for the number of the others."""
    dictionary_px: int
    """Pixels whose logits are made at once."""
    cluster_scores: int
    """Scores of a fast search that are held at once."""
    tile_sides: tuple[int, ...]
    """LR pixels a side of the tiles that an image is made in, the fastest first."""
    feature_side: int
    """LR pixels a side of a piece that the matching features are computed in. It does not follow
    the memory: a rounding that differs could turn a near tie of two keys, and so move a patch."""
    alignment_side: int
    """Pixels of the 2x grid a side of a tile of the alignment."""
    flow_side: int
    """Pixels a side of a piece of the flow, on the grid of each of its levels."""
    evidence_side: int
    """HR pixels a side of the tiles in which evidence is measured: whole cells and blocks."""
    ssim_rows: int
    """Rows of a map of SSIM that are made at once, in float64."""
    micro_batch_bytes: int
    """Largest map of the 2x grid in a training step; 0: any size."""
    read_threads: int
    """Threads that prepare batches; a processor's cores have the training step to do."""
    fused_adam: bool
    """Whether one kernel updates all weights."""
    channels_last: bool
    """Whether convolutions are fastest so in every network; on a CPU only the trained one is."""


CPU = Tuning(
    transfer_cells=2048,  # 8 MB, which are still at hand when they are put in their place
    warp_channels=8,  # a sample is one thread's work; more channels leave its cache
    plane_px=4096,
    deform_rows=64,
    deform_operator=False,
    patch_cells=16384,
    search_queries=1024,
    search_keys=4096,
    soft_queries=1024,
    soft_batched=False,
    dictionary_px=2**13,  # 4 MB, which a core's caches nearly hold
    cluster_scores=2**19,  # 2 MB
    # 448 took three times as long a pixel as 128: memory goes back to the system at every layer.
    tile_sides=(128, 96, 64),
    feature_side=512,
    alignment_side=256,
    flow_side=512,
    evidence_side=512,
    ssim_rows=64,  # they stay in the cache
    # glibc keeps freed memory for the next one who asks in pieces below 32 MB. Fresh memory, at
    # every layer, would be a third of a step of `paper`.
    micro_batch_bytes=2**24,
    read_threads=1,
    fused_adam=False,
    channels_last=False,
)

GPU = Tuning(
    transfer_cells=2**18,  # 1 GB at the width of `paper`
    warp_channels=0,
    plane_px=0,
    deform_rows=2**20,
    deform_operator=True,
    patch_cells=2**18,
    search_queries=2**12,
    search_keys=2**16,  # 1 GB of scores
    soft_queries=2**14,
    soft_batched=True,
    dictionary_px=2**18,
    cluster_scores=2**26,
    tile_sides=(1024, 512, 256, 128),
    feature_side=1024,
    alignment_side=2048,
    flow_side=2048,
    evidence_side=2048,
    ssim_rows=1024,  # 1 GB where an image is 4,000 px wide
    micro_batch_bytes=0,
    read_threads=3,  # one gives a batch of `paper` in 17 ms, a step may take as little
    fused_adam=True,
    channels_last=True,
)

TUNINGS = {"cpu": CPU, "cuda": GPU}
"""By type of device; others are taken for GPUs."""


def tuning(device: torch.device) -> Tuning:
    """What suits a device."""
    return TUNINGS.get(device.type, GPU)


def place_on(module: M, device: torch.device) -> M:
    """Move a module; on a GPU its convolutions get channels last, which its fast kernels read."""
    module = module.to(device)
    if not tuning(device).channels_last:
        return module
    return module.to(memory_format=torch.channels_last)
