"""Statistics of a whole Ref in NumPy, as `model.evidence` has them; they have no parameters."""

import numpy as np
from jaxtyping import Float32

from sddusr.config.ref_statistics import (
    BLOCK_PX,
    COLOR_ERROR,
    FLAT_SHARE,
    LEAST_CONTRAST,
    USUAL_DOUBT,
    USUAL_SHARE,
)

TINY = 1e-8


def pool_blocks(maps: Float32[np.ndarray, "1 13 h w"]) -> Float32[np.ndarray, "1 13 n"]:
    """Means over blocks of `BLOCK_PX`; pixels beyond the last whole block are left out."""
    _, num, height, width = maps.shape
    side = min(BLOCK_PX, height, width)
    rows, cols = height // side, width // side
    whole = maps[0, :, : rows * side, : cols * side].reshape(num, rows, side, cols, side)
    return whole.mean(axis=(2, 4)).reshape(1, num, rows * cols)


def statistics(blocks: Float32[np.ndarray, "1 13 n"]) -> Float32[np.ndarray, "1 12"]:
    """Statistics of the whole Ref: sharpness, noise, similarity, alignment, and usual doubt."""
    means = blocks[0].mean(axis=1)
    fine, own, shared, seen, known, both = means[:6]
    sharpens = shared / np.sqrt(fine * own + TINY)
    alike = both / np.sqrt(seen * known + TINY)
    num_flat = max(1, int(blocks.shape[2] * FLAT_SHARE))
    finest, coarse, power = blocks[0, 8:10], blocks[0, 10:12], blocks[0, 4::8]
    flattest = np.argsort(finest[1], kind="stable")[:num_flat]
    energies = np.concatenate([means[6:10], finest[:, flattest].mean(axis=1)])
    both_lenses = np.stack([3 * sharpens, 4 * np.sqrt(np.maximum(1 - alike, 0))])
    calm = np.maximum(np.sort(coarse[:, flattest])[:, num_flat // 2], LEAST_CONTRAST)
    contrast = np.sqrt(power)
    contrast[1] += COLOR_ERROR * contrast[0]
    doubt = np.sort(coarse / (contrast + calm[:, None]))
    usual = doubt[:, int(USUAL_SHARE * doubt.shape[1])].clip(*USUAL_DOUBT)
    found = np.concatenate([both_lenses, np.log(energies + 1e-4) + 4, calm, usual])
    return found[None].astype(np.float32)
