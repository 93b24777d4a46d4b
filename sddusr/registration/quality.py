"""What a tele picture adds to the wide one, measured, in words that a user understands."""

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8, UInt16

from sddusr.registration.chroma_noise import measure_chroma_noise
from sddusr.registration.overlap import beyond_blur

Pixels = UInt8[np.ndarray, "_ _ 3"] | UInt16[np.ndarray, "_ _ 3"]

MAX_PIXELS = 4_000_000
"""Pixels that are measured at most: of a larger Ref, an evenly spread grid of blocks."""
BLOCK_PX = 64
FINE_SIGMA_PX = 1.0
"""What a blur of this sigma takes away is the finest band."""
FLAT_SHARE = 0.2
"""Share of pixels, the smoothest ones of the centre, in which the finest band is noise."""
DIFFERENT = 0.08
"""Difference, of 1, of the two smoothed pictures that no exposure or blur explains."""
SMOOTH_SIGMA_PX = 3.0
SOFT = 1.15
"""Ratio of the finest bands, tele over wide: 78 training images have 1.36 or more, the same out of
focus (sigma 2) 0.75 at most, a digital zoom 1."""
NOISE_GAIN = 0.667 * 0.6745
"""Median of the finest diagonal band of the luma for white noise of 1 in each colour."""
NOISY = 8.0
"""Standard deviation, of 255, above which noise is reported."""
MANY_DIFFER, MUCH_EMPTY = 0.03, 0.05
"""Shares of Ref above which what differs or shows nothing is reported."""
JPEG_PX, MAX_JPEG_PX = 8, 2048
"""Side of a JPEG's blocks, and of the middle part of a tele image in which they are looked for."""
LEAST_STEP = 0.5 / 255
"""Step of the luma below which an edge is a calm picture's rounding."""
LEAST_ADDED = 0.25
"""Share of the tele image's finest band that counts as added at least; a digital zoom adds none."""
MAX_BLOCKS = 5.0
"""Largest energy of block edges, over that of the finest detail that the tele image adds; with more
it is left out, too. Below it 4.7 % of the JPEGs of 113 training images cost more than 0.1 dB; as
they are, these have 1.2 at most (docs/lab-notes.md)."""
MAX_NOISE = 18.0
"""Noisier, or softer than `SOFT`, a tele image is left out as a whole: it adds noise, or no detail.
Measured on 40 training and 14 test images: 9.1 at most as they are. The network that ships gains
by six of them with noise of 15 added, +0.1 to +5.3 dB, and -0.1 to +3.9 with 18."""


class RefQuality(NamedTuple):
    """Ref against the enlarged centre, after registration and colours."""

    sharpness: float
    """Finest band of Ref over that of the centre, noise taken off; 1 adds nothing."""
    noise: float
    """Standard deviation, of 255, by the median of the finest diagonal band (Donoho's estimate): of
    all of Ref, or of where the wide picture is smoothest if that is less, since fine texture counts
    as noise too."""
    differing: float
    """Share of Ref that shows something else than the wide picture."""
    empty: float
    """Share of Ref that shows nothing: beyond its border, bars, transparent."""
    blocks: float
    """Energy of JPEG's edges in the tele image, over that of the finest detail that it adds."""
    chroma_noise: float
    """Standard deviation, of 255, of each colour's noise, where the wide picture is smoothest."""

    def record(self) -> dict[str, Any]:
        return {name: round(value, 4) for name, value in self._asdict().items()}

    @property
    def is_useless(self) -> bool:
        """Whether Ref as a whole is so soft, noisy or compressed that it adds nothing."""
        return self.sharpness < SOFT or self.noise > MAX_NOISE or self.blocks > MAX_BLOCKS

    def reasons(self) -> list[str]:
        """Why Ref may be left out, each measured."""
        reasons = []
        if self.sharpness < SOFT:
            reasons.append(
                f"the tele picture is no sharper than the wide one ({self.sharpness:.2f} of its "
                f"finest detail)"
            )
        if self.noise > NOISY:
            reasons.append(f"the tele picture is noisy (about {self.noise:.0f} of 255)")
        if self.blocks > MAX_BLOCKS:
            reasons.append(
                f"the tele picture is strongly compressed (edges of JPEG blocks have "
                f"{self.blocks:.0f} times the energy of the detail it adds)"
            )
        if self.differing > MANY_DIFFER:
            reasons.append(f"{self.differing:.0%} of it differs from the wide picture")
        if self.empty > MUCH_EMPTY:
            reasons.append(f"{self.empty:.0%} of it shows nothing (border, bars or transparent)")
        return reasons


def measure_quality(
    ref: Pixels, center: Pixels, valid: Bool[np.ndarray, "rows cols"], as_given: Pixels
) -> RefQuality:
    """Compare Ref with the enlarged centre, of the same size, where Ref shows something.

    Args:
        as_given: the tele image before it was resampled, which moves the edges of JPEG blocks.
    """
    empty, blocks = 1 - float(valid.mean()), measure_blocks(as_given)
    compared = beyond_blur(valid.astype(np.uint8)) > 0  # a hidden place's edge is no detail
    colors, wide, shown = (_sampled(x) for x in (ref, center, compared))
    if not shown.any():
        return RefQuality(1.0, 0.0, 0.0, empty, blocks, 0.0)
    tele, wide = _luma(colors), _luma(wide)
    fine = [_fine(x) for x in (tele, wide)]
    added = _ratio(_mean_square((fine[0] - fine[1])[shown]), _mean_square(fine[0][shown]))
    bands = [cv2.GaussianBlur(np.square(x), (0, 0), 2.0) for x in fine]
    flat = shown & (bands[1] <= np.quantile(bands[1][shown], FLAT_SHARE))
    energy = [float(band[shown].mean()) - float(band[flat].mean()) for band in bands]
    smooth = [cv2.GaussianBlur(x, (0, 0), SMOOTH_SIGMA_PX) for x in (tele, wide)]
    different = np.abs(smooth[0] - smooth[1])[shown] > DIFFERENT
    return RefQuality(
        sharpness=math.sqrt(_ratio(*(max(amount, 0.0) for amount in energy))),
        noise=255 / NOISE_GAIN * min(_diagonal_medians(tele, shown, flat), default=0.0),
        differing=float(different.mean()),
        empty=empty,
        blocks=blocks / max(added, LEAST_ADDED),
        chroma_noise=measure_chroma_noise(colors, flat),
    )


def measure_blocks(picture: Pixels) -> float:
    """Energy of edges along a grid of 8 px, at any phase, over that of the finest band.

    An edge is a step beyond the slope around it, of which other edges have a part, too: that is
    taken off. Of each direction the median over the grid's lines, since the edge of a bar or frame
    is one of them; the geometric mean of both. 0 where there are less than two blocks.
    """
    y0, x0 = (max(side - MAX_JPEG_PX, 0) // 2 for side in picture.shape[:2])
    luma = _luma(picture[y0 : y0 + MAX_JPEG_PX, x0 : x0 + MAX_JPEG_PX])
    if min(luma.shape) < 2 * JPEG_PX + 2:
        return 0.0
    edges = math.sqrt(_block_edges(luma) * _block_edges(luma.T))
    return edges / (_mean_square(_fine(luma)) + LEAST_STEP**2)


def _block_edges(luma: np.ndarray) -> float:
    """Mean square of the edges between columns of blocks, less that of other columns."""
    step = np.diff(luma, axis=1)
    edge = np.square(step[:, 1:-1] - (step[:, :-2] + step[:, 2:]) / 2)
    columns = edge.mean(axis=0)
    by_phase = [float(np.median(columns[phase::JPEG_PX])) for phase in range(JPEG_PX)]
    *others, strongest = sorted(by_phase)
    return strongest - others[len(others) // 2]


def _diagonal_medians(luma: np.ndarray, *places: np.ndarray) -> list[float]:
    """Median amplitudes of the finest diagonal differences that lie in each place, if any does."""
    height, width = (side // 2 * 2 for side in luma.shape)

    def corners(x: np.ndarray) -> list[np.ndarray]:
        return [x[i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]

    quads = corners(luma)
    size = np.abs(quads[0] - quads[1] - quads[2] + quads[3]) / 2
    inside = (np.logical_and.reduce(corners(place)) for place in places)
    return [float(np.median(size[where])) for where in inside if where.any()]


def _ratio(energy: float, other: float) -> float:
    """A floor of a tenth of a grey level keeps it finite for flat pictures."""
    floor = (0.1 / 255) ** 2
    return (energy + floor) / (other + floor)


def _mean_square(x: np.ndarray) -> float:
    return float(np.square(x).mean())


def _fine(x: np.ndarray) -> np.ndarray:
    return x - cv2.GaussianBlur(x, (0, 0), FINE_SIGMA_PX)


def _luma(picture: Pixels) -> np.ndarray:
    top = np.iinfo(picture.dtype).max
    return cv2.cvtColor(picture.astype(np.float32), cv2.COLOR_RGB2GRAY) / top


def _sampled(picture: np.ndarray) -> np.ndarray:
    """All of a small picture; of a large one every n-th block of rows and columns."""
    step = math.ceil(math.sqrt(picture.shape[0] * picture.shape[1] / MAX_PIXELS))
    if step == 1:
        return np.ascontiguousarray(picture)
    rows, cols = (np.arange(side) // BLOCK_PX % step == 0 for side in picture.shape[:2])
    return np.ascontiguousarray(picture[rows][:, cols])
