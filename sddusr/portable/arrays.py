"""Windows of a frame as arrays of shape (1, channels, height, width)."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Float32, Shaped

from sddusr.geometry.box import Box, crop
from sddusr.geometry.tiling import grown, scaled, tiles, within
from sddusr.imaging.arrays import Pixels


def to_planes(picture: Pixels) -> Float32[np.ndarray, "1 3 h w"]:
    """Channels first, in 0..1, as `inference.to_tensor` does."""
    counts = np.ascontiguousarray(picture.transpose(2, 0, 1)).astype(np.float32)
    return counts[None] / np.float32(np.iinfo(picture.dtype).max)


def part(picture: Pixels, box: Box) -> Float32[np.ndarray, "1 3 _ _"]:
    """A rectangle of a picture as the network reads it."""
    return to_planes(crop(picture, box))


def cut(x: Shaped[np.ndarray, "1 c h w"], box: Box) -> Shaped[np.ndarray, "1 c _ _"]:
    """A view of the rectangle."""
    return x[:, :, box.y0 : box.y1, box.x0 : box.x1]


def to_pixels(cells: Shaped[np.ndarray, "1 c y x"], side: int) -> Shaped[np.ndarray, "1 c _ _"]:
    """A map of cells on a grid `side` times as fine."""
    return cells.repeat(side, axis=2).repeat(side, axis=3)


def in_tiles(
    compute: Callable[[Box], Float[np.ndarray, "1 c _ _"]],
    frame: Box,
    side: int,
    halo: int,
    factor: Fraction = Fraction(1),
) -> Float[np.ndarray, "1 c _ _"]:
    """Run a graph over a frame, window by window, and put the cores together.

    Args:
        compute: from a window of the frame to the graph's output there.
        factor: pixels of the output per pixel of the frame.
    """
    made = None
    for core in tiles(frame, side, factor.denominator):
        window = grown(core, halo, frame, factor.denominator)
        piece = cut(compute(window), scaled(within(core, window), factor))
        if core == frame:
            return piece
        if made is None:
            rows, cols = (int(length * factor) for length in (frame.height, frame.width))
            made = np.empty((1, piece.shape[1], rows, cols), piece.dtype)
        cut(made, scaled(core, factor))[:] = piece
    assert made is not None
    return made
