"""The tele lens's colours made the wide lens's: one affine map, fitted where both see the same."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float64, UInt8, UInt16

Pixels = UInt8[np.ndarray, "_ _ 3"] | UInt16[np.ndarray, "_ _ 3"]
Cells = Float64[np.ndarray, "_ 3"]
Kind = Literal["matrix", "channels", "none"]

NUM_ROUNDS = 20
MIN_CELLS = 12
"""Four times the unknowns of a channel."""
BETTER_THAN_NONE, VISIBLE = 0.5, 1 / 255
"""A fit is taken if it halves the held-out error or lowers it by what 8 bits can show. Real optics
(City100) differ by less than that, and following it costs 0.3 to 1 dB of what Ref gives."""
BETTER_THAN_CHANNELS = 0.9
"""Largest held-out error of a matrix, over that of gains and offsets."""
FULL_SHARE = 0.5
"""Cells with fewer usable pixels are left out."""
STRIP_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class ColorConfig:
    kind: Kind = "matrix"
    """A 3x3 matrix with offsets, a gain and an offset for each channel, or no change."""
    cell_px: int = 16
    """Side of the cells whose means are compared, in pixels of the wide picture: sharpness and
    parallax do not count."""
    clipped: float = 0.02
    """Pixels so near to black or white, of 1, are not compared."""
    ridge: float = 3e-5
    """Pull of the matrix towards the channels' gains; colours vary by about 1e-3, noise by 1e-5."""
    max_gain: float = 3.0
    """The map's singular values lie between 1 / max_gain and max_gain, ..."""
    max_sure_gain: float = 10.0
    """... or within this, where the error on held-out cells is below `sure_error`: a tele picture
    of a tenth of the exposure."""
    sure_error: float = 0.02
    """Median difference, in 0..1."""
    max_condition: float = 3.0
    """Largest over smallest singular value of the matrix."""


class ColorMap(NamedTuple):
    """out = matrix @ in + offset, on RGB in 0..1."""

    matrix: Float64[np.ndarray, "3 3"]
    offset: Float64[np.ndarray, "3"]
    kind: str = "none"
    why: str = ""
    """Why it is simpler than asked; empty if it is not."""
    num_cells: int = 0
    error_before: float = 0.0
    """Median difference of the cells, in 0..1."""
    error_after: float = 0.0

    def apply(self, picture: Pixels) -> Pixels:
        """The picture in the other's colours, rounded and clipped to its own depth."""
        top = np.iinfo(picture.dtype).max
        rows = np.column_stack([self.matrix, self.offset * top]).astype(np.float32)
        out = np.empty_like(picture)
        for start in range(0, len(picture), STRIP_ROWS):
            strip = slice(start, start + STRIP_ROWS)
            mapped = cv2.transform(picture[strip].astype(np.float32), rows)
            out[strip] = np.rint(mapped).clip(0, top)
        return out

    def inverse(self) -> "ColorMap":
        """The way back: undoes `apply` but for rounding and clipping."""
        back = np.linalg.inv(self.matrix)
        return self._replace(matrix=back, offset=-back @ self.offset)

    def record(self) -> dict[str, Any]:
        lists = {"matrix": self.matrix.tolist(), "offset": self.offset.tolist()}
        return self._asdict() | lists


def fit_color(
    ref: Pixels,
    wide: Pixels,
    valid: Bool[np.ndarray, "rows cols"],
    config: ColorConfig = ColorConfig(),
) -> ColorMap:
    """The map that gives `ref` the colours of `wide`, which shows the same place, pixel on pixel.

    Candidates are no change, a gain and an offset for each channel, and a matrix. Each is fitted to
    one half of the cells and judged on the other, both ways round; the more general one is taken
    only where it clearly wins there, so a near-grey scene, which does not tell the channels apart,
    keeps its gains. `why` says what spoke against what was asked for.
    """
    chosen, why = ColorMap(np.eye(3), np.zeros(3)), ""
    if config.kind == "none":
        return chosen
    source, target, is_odd = _cells(ref, wide, valid, config)
    if len(source) < MIN_CELLS:
        return chosen._replace(why=f"{len(source)} cells to compare, need {MIN_CELLS}")
    before = error = _error(chosen, source, target)
    for kind in _CANDIDATES[: _CANDIDATES.index(config.kind) + 1]:
        held_out = _held_out_error(source, target, is_odd, kind, config)
        if not _wins(held_out, error, chosen.kind):
            why = f"{kind}: error {held_out:.4f} on held-out cells, {error:.4f} without"
            continue
        found = _fit(source, target, kind, config)
        if why := _unbelievable(found, held_out, config):
            continue
        chosen, error = found, held_out
    after = _error(chosen, source, target)
    return chosen._replace(why=why, num_cells=len(source), error_before=before, error_after=after)


_CANDIDATES: tuple[Kind, ...] = ("channels", "matrix")


def _wins(error: float, other: float, other_kind: str) -> bool:
    """Whether a fit's held-out error is clearly below that of a simpler one."""
    if other_kind != "none":
        return error < BETTER_THAN_CHANNELS * other
    return error < BETTER_THAN_NONE * other or other - error > VISIBLE


def _held_out_error(
    source: Cells,
    target: Cells,
    is_odd: Bool[np.ndarray, "_"],
    kind: Kind,
    config: ColorConfig,
) -> float:
    """Median difference of cells that the fit has not seen."""
    errors = []
    for part in (is_odd, ~is_odd):
        if min(part.sum(), (~part).sum()) < MIN_CELLS // 2:
            return float("inf")
        found = _fit(source[part], target[part], kind, config)
        errors.append(_differences(found, source[~part], target[~part]))
    return float(np.median(np.concatenate(errors)))


def _error(color: ColorMap, source: Cells, target: Cells) -> float:
    return float(np.median(_differences(color, source, target)))


def _differences(color: ColorMap, source: Cells, target: Cells) -> Cells:
    return np.abs(source @ color.matrix.T + color.offset - target)


def _fit(source: Cells, target: Cells, kind: Kind, config: ColorConfig) -> ColorMap:
    gains, offset = _fit_channels(source, target)
    if kind == "channels":
        return ColorMap(np.diag(gains), offset, "channels")
    matrix, offset = _fit_matrix(source, target, np.diag(gains), config.ridge)
    return ColorMap(matrix, offset, "matrix")


def _unbelievable(found: ColorMap, held_out_error: float, config: ColorConfig) -> str:
    """Why a map is not to be used; empty if it is."""
    matrix = found.matrix
    most, _, least = np.linalg.svd(matrix)[1]
    is_sure = held_out_error < config.sure_error
    max_gain = config.max_sure_gain if is_sure else config.max_gain
    if (np.diag(matrix) <= 0).any():
        return f"{np.diag(matrix).min():.2f} times a channel, need more than 0"
    if most > max_gain or least < 1 / max_gain:
        return f"gains from {least:.2f} to {most:.2f}, need {1 / max_gain:.2f} to {max_gain:.2f}"
    if found.kind == "matrix" and most > config.max_condition * least:
        return f"condition {most / least:.1f}, need at most {config.max_condition:.1f}"
    return ""


def _cells(
    ref: Pixels, wide: Pixels, valid: Bool[np.ndarray, "rows cols"], config: ColorConfig
) -> tuple[Cells, Cells, Bool[np.ndarray, "_"]]:
    """Means of both pictures over the pixels of each cell that neither clips, in 0..1, and which
    cells are the black ones of a checkerboard."""
    size = [max(1, round(side / config.cell_px)) for side in valid.shape][::-1]
    used = valid & _unclipped(ref, config.clipped) & _unclipped(wide, config.clipped)
    share = cv2.resize(used.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    full = share >= FULL_SHARE
    means = []
    for picture in (ref, wide):
        usable = picture.astype(np.float32) * used[..., None]
        sums = cv2.resize(usable, size, interpolation=cv2.INTER_AREA)[full]
        means.append(sums / share[full][:, None].astype(np.float64) / np.iinfo(picture.dtype).max)
    y, x = np.nonzero(full)
    return means[0], means[1], (y + x) % 2 == 1


def _unclipped(picture: Pixels, margin: float) -> Bool[np.ndarray, "rows cols"]:
    top = np.iinfo(picture.dtype).max
    within = (picture >= margin * top) & (picture <= (1 - margin) * top)
    return np.logical_and.reduce(within, axis=-1)


def _fit_channels(
    source: Cells, target: Cells
) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3"]]:
    gains, offset, weight = np.ones(3), np.zeros(3), np.ones(len(source))
    for _ in range(NUM_ROUNDS):
        x_mean, y_mean = (np.average(cells, 0, weight) for cells in (source, target))
        x, y = source - x_mean, target - y_mean
        # The ridge keeps a flat picture's gain at 1.
        spread = np.average(x * x, 0, weight) + 1e-6
        gains = (np.average(x * y, 0, weight) + 1e-6) / spread
        offset = y_mean - gains * x_mean
        weight = _cauchy(source * gains + offset - target)
    return gains, offset


def _fit_matrix(
    source: Cells, target: Cells, prior: Float64[np.ndarray, "3 3"], ridge: float
) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "3"]]:
    matrix, offset, weight = prior, np.zeros(3), np.ones(len(source))
    weight = _cauchy(source @ prior.T + np.median(target - source @ prior.T, axis=0) - target)
    for _ in range(NUM_ROUNDS):
        x_mean, y_mean = (np.average(cells, 0, weight) for cells in (source, target))
        x, y = source - x_mean, target - y_mean
        share = (weight / weight.sum())[:, None]
        left = x.T @ (share * x) + ridge * np.eye(3)
        right = x.T @ (share * y) + ridge * prior.T
        matrix = np.linalg.solve(left, right).T
        offset = y_mean - matrix @ x_mean
        weight = _cauchy(source @ matrix.T + offset - target)
    return matrix, offset


def _cauchy(error: Cells) -> Float64[np.ndarray, "_"]:
    distance = np.linalg.norm(error, axis=1)
    scale = max(2 * float(np.median(distance)), 1e-3)
    return 1 / (1 + (distance / scale) ** 2) ** 2
