"""How a package's runtime cuts a picture so that it fits in memory."""

from typing import NamedTuple

from sddusr.config import LR_PER_CELL, SCALE
from sddusr.inference import sample
from sddusr.inference.process_memory import NotEnoughMemoryError, free_bytes, held_bytes
from sddusr.portable.detail import NUM_MAPS
from sddusr.portable.package import Package, Reaches
from sddusr.portable.precompute import ALIGNMENT_SIDE
from sddusr.portable.search import FEATURE_SIDE, KEY_BLOCK, QUERY_BLOCK
from sddusr.portable.transfer import CELL

TILE_SIDES = (128, 96, 64)
"""LR pixels."""

REGION_SIDES = (1024, 768, 512, 384, 256, 128)
"""LR pixels; tried after the whole frame."""

FREE_SHARE = 0.8
"""Of the free memory, what is taken where no limit is given."""

ENCODER_MAPS, FUSION_MAPS, FLOW_MAPS, VGG_MAPS = 6, 6, 3, 3
"""Maps of the stage's width that are alive at once."""

CENTER_MAPS, TAP_MAPS = 6, 20
"""The same of a part of the centre and of a tile of its alignment, whose nine taps are held."""

PATCH_CELLS = 9
"""Cells of a matching patch."""

FLOAT_BYTES = 4
MEGABYTE = 10**6


class PortablePlan(NamedTuple):
    """How a picture is cut."""

    region_px: int
    """LR pixels a side of a region that the encoder runs on at once."""
    tile_px: int
    """LR pixels a side of a tile that the rest runs on."""
    center_px: int
    """LR pixels a side of a part of the centre whose features are held at once."""
    num_bytes: int = 0
    """What this takes beside what the process holds already, as estimated."""
    bank_dtype: str = "float32"
    """What the aligned Ref feature is kept in."""


def plan_memory(
    package: Package,
    lr_shape: tuple[int, int],
    center_shape: tuple[int, int],
    result_bytes: int,
    limit: int | None,
    share: float = 1.0,
    held: int | None = None,
) -> PortablePlan:
    """The largest regions and tiles that fit.

    Args:
        held: what the process holds already; None asks the system.

    Raises:
        NotEnoughMemoryError: the smallest ones do not fit (a ValueError).
    """
    held = held_bytes() if held is None else held
    room = FREE_SHARE * share * free_bytes() if limit is None else limit - held
    sides = [max(lr_shape)]
    if min(lr_shape) >= sample.room():
        sides += [side for side in REGION_SIDES if side < sides[0]]
    plan = None
    for tile in TILE_SIDES:
        for region in sides:
            plan = _plan(package, lr_shape, center_shape, result_bytes, region, tile)
            if plan.num_bytes <= room:
                return plan
    assert plan is not None
    raise NotEnoughMemoryError(
        f"a wide picture of {lr_shape[0]}x{lr_shape[1]} needs "
        f"{(plan.num_bytes + held) / MEGABYTE:.0f} MB even in the smallest pieces, there are "
        f"{(room + held) / MEGABYTE:.0f}; raise --memory or close other programs"
    )


def _plan(
    package: Package,
    lr_shape: tuple[int, int],
    center_shape: tuple[int, int],
    result_bytes: int,
    region_px: int,
    tile_px: int,
) -> PortablePlan:
    """What these sides take."""
    reaches = package.manifest.reaches
    num_px, num_center_px = lr_shape[0] * lr_shape[1], center_shape[0] * center_shape[1]
    center_px = min(max(center_shape), max(tile_px, region_px // SCALE // CELL * CELL))
    region = min(num_px, (region_px + 2 * (reaches.encoder_px + reaches.tile_px)) ** 2)
    tile = min(num_px, (tile_px + 2 * reaches.tile_px) ** 2) * SCALE**2
    part = min(num_center_px, center_px**2) * SCALE**2
    aligned = min(num_center_px * SCALE**2, (ALIGNMENT_SIDE + 2 * reaches.align_px) ** 2)
    bank = num_center_px * SCALE**2 * (reaches.dim + NUM_MAPS)
    stages = (
        ENCODER_MAPS * reaches.dim * region,
        reaches.dim * region + FUSION_MAPS * reaches.wide_dim * tile,
        reaches.dim * (CENTER_MAPS * part + TAP_MAPS * aligned),
        FLOW_MAPS * reaches.flow_dim * num_center_px,
        _search_floats(reaches, num_px, num_center_px),
    )
    num_bytes = result_bytes + FLOAT_BYTES * (bank + max(stages))
    return PortablePlan(region_px, tile_px, center_px, num_bytes)


def _search_floats(reaches: Reaches, num_px: int, num_center_px: int) -> int:
    """What the matching features of a piece take, and then the search."""
    window = min(num_px, (FEATURE_SIDE + 2 * reaches.features_px) ** 2)
    num_cells, num_keys = num_px // LR_PER_CELL**2, num_center_px // LR_PER_CELL**2
    maps = reaches.features_dim * (2 * num_cells + num_keys)
    scores = min(QUERY_BLOCK, num_cells) * min(KEY_BLOCK, num_keys)
    patches = PATCH_CELLS * reaches.features_dim * (2 * num_keys + QUERY_BLOCK)
    return maps + max(VGG_MAPS * reaches.vgg_dim * window, patches + scores)
