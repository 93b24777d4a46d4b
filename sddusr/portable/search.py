"""Sparse feature matching in NumPy: masks, twins and an exact search (Eqs. 2 to 5)."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from sddusr.config import LR_PER_CELL
from sddusr.geometry.box import HR_PER_CELL, Box, whole
from sddusr.geometry.tiling import scaled
from sddusr.imaging.arrays import Pixels
from sddusr.portable.arrays import in_tiles, part
from sddusr.portable.package import Package

FEATURE_SIDE = 512
"""LR pixels of a piece that the matching features are computed in."""

MASK_ROWS = 64
"""Rows of cells that the mask decides about at once."""

QUERY_BLOCK, KEY_BLOCK = 1024, 4096
"""Queries and keys whose scores are held at once, at most."""

SHORTEST = 1e-12
"""Smallest length that a patch is divided by."""

Progress = Callable[[float], None]


class Search(NamedTuple):
    """What was found for each query cell."""

    key_index: Int[np.ndarray, "hq wq"]
    """Flat index into the key grid; 0 where the query did not take part."""
    confidence: Float32[np.ndarray, "hq wq"]
    weight: Float32[np.ndarray, "hq wq"]
    """1 where a cell took part in the search and there was a key to be found, else 0."""
    query_mask: Bool[np.ndarray, "hq wq"] | None
    key_mask: Bool[np.ndarray, "hk wk"] | None


def nothing_found(rows: int, cols: int) -> Search:
    """A search that found nothing, as there is no Ref."""
    nothing = np.zeros((rows, cols), np.float32)
    return Search(np.zeros((rows, cols), np.int64), nothing, nothing, None, None)


def search(package: Package, lr: Pixels, center: Pixels, box: Box, progress: Progress) -> Search:
    """Masks, matches and confidences of the whole frame.

    Args:
        box: where the centre was cut out of LR, HR pixels on the matching grid.
    """
    query_feat, key_feat = (_features(package, picture) for picture in (lr, center))
    query_mask = key_mask = None
    if package.manifest.has_mask:
        query_mask = _keep(package, query_feat)
        key_mask = _keep(package, key_feat) if package.manifest.masks_keys else None
    rows, cols = query_feat.shape[1:]
    index, confidence = np.zeros(rows * cols, np.int64), np.zeros(rows * cols, np.float32)
    queries, keys = _kept_cells(query_mask, rows * cols), _kept_cells(key_mask, key_feat[0].size)
    if queries.size and keys.size:
        reach = math.ceil(package.manifest.reaches.features_px / LR_PER_CELL)
        place = scaled(box, Fraction(1, HR_PER_CELL))
        twins, twin_keys, queries = find_twins(query_feat, place, reach, queries, keys)
        index[twins], confidence[twins] = twin_keys, 1
        index[queries], confidence[queries] = best_keys(
            query_feat, key_feat, queries, keys, progress
        )
    weight = np.ones((rows, cols), np.float32)
    if query_mask is not None:
        weight = query_mask.astype(np.float32) * bool(keys.size)
    grids = (index.reshape(rows, cols), confidence.reshape(rows, cols))
    return Search(*grids, weight, query_mask, key_mask)


def _features(package: Package, picture: Pixels) -> Float32[np.ndarray, "d h w"]:
    return in_tiles(
        lambda window: package.first("features", part(picture, window)),
        whole(*picture.shape[:2]),
        FEATURE_SIDE,
        package.manifest.reaches.features_px,
        Fraction(1, LR_PER_CELL),
    )[0]


def _keep(package: Package, features: Float32[np.ndarray, "d h w"]) -> Bool[np.ndarray, "h w"]:
    """Which cells take part: the mask reads the frame's mean, then each cell."""
    strips = [features[None, :, start : start + MASK_ROWS]
              for start in range(0, features.shape[1], MASK_ROWS)]  # fmt: skip
    total = sum(package.first("mask_sum", strip) for strip in strips)
    mean = np.asarray(total) / np.float32(features[0].size)
    kept = [package.first("mask_keep", strip, mean)[0, 0] for strip in strips]
    return np.concatenate(kept)


def _kept_cells(mask: Bool[np.ndarray, "h w"] | None, num_cells: int) -> Int[np.ndarray, "kept"]:
    """Flat indices, in order."""
    return np.arange(num_cells) if mask is None else np.flatnonzero(mask)


def find_twins(
    query_feat: Float32[np.ndarray, "d hq wq"],
    place: Box,
    reach: int,
    queries: Int[np.ndarray, "q"],
    keys: Int[np.ndarray, "k"],
) -> tuple[Int[np.ndarray, "t"], Int[np.ndarray, "t"], Int[np.ndarray, "rest"]]:
    """Queries that are copies of a kept key, that key, and all other queries.

    Args:
        place: the key grid in the query grid.
        reach: cells that a feature depends on beyond its own.
    """
    rows, cols = query_feat.shape[1:]
    margin = reach + 1  # patches are 3x3
    y, x = np.divmod(queries, cols)
    is_twin = (y >= place.y0 + margin * (place.y0 > 0)) & (x >= place.x0 + margin * (place.x0 > 0))
    is_twin &= (y < place.y1 - margin * (place.y1 < rows)) & (
        x < place.x1 - margin * (place.x1 < cols)
    )
    key = np.where(is_twin, (y - place.y0) * place.width + x - place.x0, 0)
    is_kept = np.zeros(place.height * place.width, bool)
    is_kept[keys] = True
    is_twin &= is_kept[key] & _has_signal(query_feat).ravel()[queries]
    return queries[is_twin], key[is_twin], queries[~is_twin]


def _has_signal(features: Float32[np.ndarray, "d h w"]) -> Bool[np.ndarray, "h w"]:
    """Whether a cell's 3x3 patch has a direction."""
    rows, cols = features.shape[1:]
    largest = np.pad(np.abs(features).max(0), 1)
    around = [largest[y : y + rows, x : x + cols] for y in range(3) for x in range(3)]
    return np.max(around, axis=0) > SHORTEST


def best_keys(
    query_feat: Float32[np.ndarray, "d hq wq"],
    key_feat: Float32[np.ndarray, "d hk wk"],
    queries: Int[np.ndarray, "q"],
    keys: Int[np.ndarray, "k"],
    progress: Progress,
) -> tuple[Int[np.ndarray, "q"], Float32[np.ndarray, "q"]]:
    """The most similar key cell of each query cell, and its cosine; the first where several tie."""
    key_patches = _unit_patches(key_feat, keys)
    found, scores = np.zeros(queries.size, np.int64), np.zeros(queries.size, np.float32)
    query_features = _padded(query_feat)
    for start in range(0, queries.size, QUERY_BLOCK):
        here = slice(start, start + QUERY_BLOCK)
        patches = _gather(query_features, queries[here], query_feat.shape[2])
        best = np.full(len(patches), -np.inf, np.float32)
        for first in range(0, keys.size, KEY_BLOCK):
            product = patches @ key_patches[first : first + KEY_BLOCK].T
            index = product.argmax(1)
            score = np.take_along_axis(product, index[:, None], 1)[:, 0]
            better = score > best
            best[better] = score[better]
            found[here][better] = keys[first + index[better]]
        scores[here] = best
        progress(min(start + QUERY_BLOCK, queries.size) / queries.size)
    return found, scores


def _unit_patches(
    features: Float32[np.ndarray, "d h w"], cells: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n _"]:
    return _gather(_padded(features), cells, features.shape[2])


def _padded(features: Float32[np.ndarray, "d h w"]) -> Float32[np.ndarray, "y x d"]:
    """Features reflected at the border, channels last."""
    return np.pad(features.transpose(1, 2, 0), ((1, 1), (1, 1), (0, 0)), mode="reflect")


def _gather(
    padded: Float32[np.ndarray, "y x d"], cells: Int[np.ndarray, "n"], cols: int
) -> Float32[np.ndarray, "n _"]:
    """3x3 patches of length 1 (Eq. 2)."""
    y, x = np.divmod(cells, cols)
    around = [padded[y + dy, x + dx] for dy in range(3) for dx in range(3)]
    patches = np.concatenate(around, axis=1)
    lengths = np.sqrt(np.square(patches).sum(1, keepdims=True))
    return patches / np.maximum(lengths, SHORTEST)
