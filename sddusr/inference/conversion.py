"""Pictures as arrays of integers, as the network's tensors, and back."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from sddusr.geometry.box import Box, crop
from sddusr.imaging.arrays import Pixels, quantize
from sddusr.imaging.resize import bicubic_up


def to_tensor(picture: Pixels) -> Float[Tensor, "3 h w"]:
    """Channels first, in 0..1."""
    counts = np.ascontiguousarray(picture.transpose(2, 0, 1)).astype(np.float32)
    return torch.from_numpy(counts) / float(np.iinfo(picture.dtype).max)


class Uploads:
    """Images on a GPU in their own integers, each copied there once."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[Pixels, Tensor]] = {}

    def of(self, picture: Pixels, device: torch.device) -> Tensor:
        """The image on the device, (h, w, 3)."""
        if id(picture) not in self._held:
            # A copy, as shards give arrays that cannot be written; few operators know uint16.
            counts = np.array(picture, np.uint8 if picture.dtype == np.uint8 else np.int32)
            pinned = torch.from_numpy(counts).pin_memory()
            self._held[id(picture)] = picture, pinned.to(device, non_blocking=True)
        return self._held[id(picture)][1]


def part_on(
    device: torch.device, picture: Pixels, box: Box, uploads: Uploads | None
) -> Float[Tensor, "1 3 _ _"]:
    """A rectangle of an image on a device, channels first, in 0..1."""
    if device.type == "cpu" or uploads is None:
        return to_tensor(crop(picture, box))[None].to(device)
    counts = uploads.of(picture, device)[box.y0 : box.y1, box.x0 : box.x1]
    return counts.permute(2, 0, 1)[None].float() / float(np.iinfo(picture.dtype).max)


def to_pixels(picture: Float[Tensor, "3 h w"], dtype: Any) -> np.ndarray:
    """`to_array`, clamped and rounded if the type is one of integers: on the device, so that a
    quarter of the bytes leave it."""
    if not np.issubdtype(dtype, np.integer):
        return to_array(picture)
    if picture.device.type == "cpu":
        return quantize(to_array(picture), dtype)
    counts = (picture.float().clamp(0, 1) * np.iinfo(dtype).max).round_().permute(1, 2, 0)
    small = torch.uint8 if dtype == np.uint8 else torch.int32
    return counts.to(small, memory_format=torch.contiguous_format).cpu().numpy().astype(dtype)


def download(*maps: Tensor) -> list[np.ndarray]:
    """Maps of a device in the CPU's memory; from a GPU in one transfer."""
    if maps[0].device.type == "cpu":
        return [x.numpy() for x in maps]
    # Which holds float32 and all indices exactly.
    flat = torch.cat([x.flatten().double() for x in maps]).cpu()
    return [
        part.view(x.shape).to(x.dtype).numpy()
        for x, part in zip(maps, flat.split([x.numel() for x in maps]), strict=True)
    ]


def to_array(picture: Float[Tensor, "3 h w"]) -> Float32[np.ndarray, "h w 3"]:
    """Channels last, in the processor's memory."""
    return np.ascontiguousarray(picture.float().permute(1, 2, 0).cpu().numpy())


def to_8bit(picture: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """`quantize` to a byte, exactly as the protocol `png8` does."""
    return quantize(picture, np.uint8)


def bicubic(lr: Pixels) -> Float32[np.ndarray, "_ _ 3"]:
    """The picture enlarged without a network, the row that every table starts with; unclamped."""
    return to_array(bicubic_up(to_tensor(lr)[None])[0])
