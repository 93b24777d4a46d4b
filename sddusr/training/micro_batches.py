"""A batch in parts, each with a backward pass of its own: less memory, the same gradient."""

from itertools import pairwise

import torch

from sddusr.config import Config
from sddusr.model.tuning import tuning
from sddusr.types import Batch


def fastest_parts(config: Config, device: torch.device, batch: Batch, num_samples: int) -> int:
    """Micro-batches of so many samples: one, unless a map of the 2x grid would be too large for a
    processor."""
    most = tuning(device).micro_batch_bytes
    if not most:
        return 1
    sample = 4 * config.model.dim * batch.hr[0, 0].numel()
    return -(-num_samples // max(1, most // sample))


def micro_batches(batch: Batch, num: int) -> list[Batch]:
    """A batch in parts that differ by one sample at most, none of them empty."""
    size = len(batch.ids)
    num = min(num, size)
    edges = [size * i // num for i in range(num + 1)]
    return [_part(batch, slice(start, end)) for start, end in pairwise(edges)]


def _part(batch: Batch, which: slice) -> Batch:
    return Batch(
        ids=batch.ids[which],
        lr=batch.lr[which],
        lr_center=batch.lr_center[which],
        ref=batch.ref[which],
        hr=batch.hr[which],
        mask_label=batch.mask_label[which],
        seeds=batch.seeds[which],
        center_offset=batch.center_offset[which],
        has_ref=batch.has_ref[which],
        gumbel=None if batch.gumbel is None else batch.gumbel[which],
    )
