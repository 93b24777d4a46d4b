"""Batches on the device, one copied ahead of the step that takes it."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from sddusr.model.matching.mask import gumbel_noise
from sddusr.types import IMAGES, Batch


def device_batches(
    batches: Iterable[Batch], device: torch.device, with_noise: bool
) -> Iterator[Batch]:
    """The same batches on a device.

    On a GPU they travel as integers from pinned memory, one ahead, so that no step waits for one;
    there they become 0..1.

    Args:
        with_noise: draw the mask's Gumbel noise here, which else the network does, and waits for.
    """
    if device.type == "cpu":
        yield from batches
        return
    ahead: Batch | None = None
    for batch in batches:
        uploaded = upload(batch, device, with_noise)
        if ahead is not None:
            yield to_unit_range(ahead)
        ahead = uploaded
    if ahead is not None:
        yield to_unit_range(ahead)


def upload(batch: Batch, device: torch.device, with_noise: bool) -> Batch:
    """Begin to copy a batch to a GPU; the seeds stay, which only its noise depends on."""
    if with_noise:
        rows, cols = batch.mask_label.shape[2:]
        batch = batch._replace(gumbel=gumbel_noise(batch.seeds, rows, cols))
    moved = {
        name: value.pin_memory().to(device, non_blocking=True)
        for name, value in batch._asdict().items()
        if isinstance(value, Tensor) and name != "seeds"
    }
    return batch._replace(**moved)


def to_unit_range(batch: Batch) -> Batch:
    """Images of bytes as numbers in 0..1."""
    images = {name: getattr(batch, name) for name in IMAGES}
    return batch._replace(
        **{name: x.float() / 255 for name, x in images.items() if x.dtype == torch.uint8}
    )
