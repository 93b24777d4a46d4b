"""A map of the frame in pieces, so that memory comes back while the map is used up."""

from collections.abc import Iterable

import torch
from jaxtyping import Shaped
from torch import Tensor

from sddusr.geometry.box import Box
from sddusr.inference.tiles import cut, overlap, within


class TiledFeatureMap:
    """A map of the frame that lies in pieces, which may overlap and can be taken one by one."""

    def __init__(self) -> None:
        self._pieces: list[tuple[Box, Shaped[Tensor, "1 c _ _"]]] = []

    @classmethod
    def empty(cls, boxes: Iterable[Box], dim: int, like: Tensor) -> "TiledFeatureMap":
        """Room for these rectangles, channels last; the system gives the memory when it is filled.

        Args:
            like: says the format and the device.
        """
        mosaic = cls()
        for box in boxes:
            mosaic.add(box, _empty(dim, box, like))
        return mosaic

    def add(self, box: Box, piece: Shaped[Tensor, "1 c _ _"]) -> None:
        """One more piece, which is not copied."""
        self._pieces.append((box, piece))

    def put(self, box: Box, values: Shaped[Tensor, "1 c _ _"]) -> None:
        """Write a rectangle into all pieces that share pixels with it."""
        for place, piece in self._pieces:
            _copy_shared(values, box, piece, place)

    def take(self, box: Box) -> Shaped[Tensor, "1 c _ _"]:
        """A piece of just this rectangle, which the mosaic then no longer holds.

        Raises:
            KeyError: there is none.
        """
        for index, (place, piece) in enumerate(self._pieces):
            if place == box:
                del self._pieces[index]
                return piece
        raise KeyError(box)

    def part(self, box: Box) -> Shaped[Tensor, "1 c _ _"]:
        """A rectangle that the pieces cover, put together."""
        _, some = self._pieces[0]
        whole = _empty(some.shape[1], box, some)
        for place, piece in self._pieces:
            _copy_shared(piece, place, whole, box)
        return whole


def _empty(dim: int, box: Box, like: Tensor) -> Tensor:
    return torch.empty(
        (1, dim, box.height, box.width),
        dtype=like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )


def _copy_shared(source: Tensor, source_box: Box, target: Tensor, target_box: Box) -> None:
    """Copy the pixels that both rectangles have."""
    shared = overlap(source_box, target_box)
    if shared is not None:
        cut(target, within(shared, target_box)).copy_(cut(source, within(shared, source_box)))
