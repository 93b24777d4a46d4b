"""How a picture is cut so that a given memory holds it.

What the work keeps is counted; what it takes beside that was measured with the `paper` network
(bytes a pixel, as maps of the network's width) and is rounded up.
"""

import math
from typing import NamedTuple

import torch

from sddusr.config import LR_PER_CELL, SCALE
from sddusr.inference import process_memory, sample
from sddusr.inference.carried import NUM_MAPS
from sddusr.inference.precompute import ALIGNMENT_HALO_PX, Inputs
from sddusr.inference.process_memory import NotEnoughMemoryError
from sddusr.inference.regions import DECODER_TILES, gated_halo
from sddusr.inference.tiles import reach
from sddusr.model.evidence import reach as evidence_reach
from sddusr.model.matching import fast_search, shortlist
from sddusr.model.sddusr import SDDuSR
from sddusr.model.tuning import tuning

MEGABYTE = 10**6

REGION_SIDES = (1024, 768, 512, 384, 256, 128)
"""LR pixels; tried after the whole frame."""

FREE_SHARE = 0.8
"""Of the free memory, what is taken where no limit is given; of a GPU's, of all that it has, so
that a plan, and with it the pixels, do not depend on what the process did before."""

ENCODER_MAPS, ALIGNMENT_MAPS, FUSION_MAPS, VGG_MAPS = 6, 10, 6, 3
"""Maps of the stage's width that are alive at once."""

CENTER_TILES = 2
"""The least side of a part of the centre, as a multiple of the tiles' (but for the smallest tiles):
half as large, its encoders would compute twice what they keep."""

OFFSET_MAPS = 81
"""For each group of the deformable convolution: offsets and gates of nine taps, three times."""

EVIDENCE_MAPS = 48
"""Maps that are alive while Ref's detail is measured in a tile."""

LIBRARY_BYTES = 150 * MEGABYTE
"""What allocator and libraries keep for themselves."""

FLOW_BYTES = 48
"""For each Ref pixel, while the flow is computed."""

CELL_BYTES = 48
"""For each cell of the matching grid: index, confidence, weight and their copies."""

PAIR_BYTES = 96
"""For each pair of a query and a cluster of keys: indices, their order, score."""

FLOAT_BYTES = 4


class Plan(NamedTuple):
    """How a picture is cut."""

    region_px: int
    """LR pixels a side of a region that the encoder runs on at once."""
    tile_px: int
    """LR pixels a side of a tile that the rest runs on, but for the decoder, whose tiles are
    `regions.DECODER_TILES` times that."""
    center_px: int
    """LR pixels a side of a part of the centre whose features are held at once."""
    bank_dtype: torch.dtype
    """What the aligned Ref feature is kept in."""
    kept_maps: int = 1
    """Of a frame of one region, how many of the fusion's widest maps are kept between the pass that
    pools and the one that makes the picture: 1 keeps what goes into the gates, else the most work
    of all is done twice; 2 keeps what is fused, too."""
    num_bytes: int = 0
    """What this takes beside what the process holds already, as estimated."""


def plan_memory(
    model: SDDuSR,
    inputs: Inputs,
    result_bytes: int,
    *,
    bfloat16: bool,
    limit: int | None,
    share: float = 1.0,
) -> Plan:
    """The largest regions and tiles that fit; regions come first, as they waste the most.

    The aligned Ref feature is kept in float32 only where the network computes in it and that leaves
    room for large regions.

    Args:
        result_bytes: of the picture that is made.
        limit: bytes that the process may hold at its peak; None: most of what is free.
        share: of what is free, where other processes do the same.

    Raises:
        NotEnoughMemoryError: the smallest tiles do not fit (a ValueError).
    """
    held = held_bytes(inputs.device)
    room = default_room(inputs.device, share) if limit is None else limit - held
    cost = Cost(model, inputs, result_bytes, bfloat16)
    plan = None
    for plan in cost.plans():
        if plan.num_bytes <= room:
            return plan
    assert plan is not None
    height, width = inputs.size
    raise NotEnoughMemoryError(
        f"a wide picture of {height}x{width} needs {(plan.num_bytes + held) / MEGABYTE:.0f} MB "
        f"even in the smallest pieces, there are {(room + held) / MEGABYTE:.0f}; raise --memory, "
        f"close other programs or take a narrower network"
    )


class Cost:
    """Bytes that each stage holds at its peak."""

    def __init__(self, model: SDDuSR, inputs: Inputs, result_bytes: int, bfloat16: bool) -> None:
        self.model, self.inputs, self.result_bytes = model, inputs, result_bytes
        self.activation_bytes = 2 if bfloat16 else FLOAT_BYTES
        self.num_px = inputs.lr.shape[0] * inputs.lr.shape[1]
        self.num_ref_px = inputs.ref.shape[0] * inputs.ref.shape[1]
        self.num_cells = self.num_px // LR_PER_CELL**2
        self.sizes = tuning(inputs.device)

    def plans(self) -> list[Plan]:
        """From the fastest to the smallest."""
        longest = max(self.inputs.size)
        sides = [longest]
        if min(self.inputs.size) >= sample.room():
            sides += [side for side in REGION_SIDES if side < longest]
        exact = self.activation_bytes == FLOAT_BYTES
        # In float32 a second map would be twice as large and save a smaller share of the time.
        whole = [] if exact else sides[:1]
        choices = [(torch.float32, [s for s in sides if s >= min(longest, 512)])] * exact
        return [
            self.plan(region, tile, dtype, kept_maps)
            for dtype, regions in [*choices, (torch.bfloat16, sides)]
            for kept_maps, some in ((2, whole), (1, regions[:1]), (0, regions))
            for tile in self.sizes.tile_sides
            for region in some
        ]

    def plan(self, region_px: int, tile_px: int, dtype: torch.dtype, kept_maps: int) -> Plan:
        dim = self.model.dim + (NUM_MAPS if self.model.trust is not None else 0)
        bank = self.num_ref_px * dim * dtype.itemsize
        kept = self.result_bytes + self.num_cells * CELL_BYTES
        is_whole = region_px >= max(self.inputs.size)
        stages = (
            self.searching(),
            bank + self.encoding(region_px) + (0 if is_whole else self.lr_feat(region_px)),
            bank + self.lr_feat(region_px) + self.fusing(tile_px) + kept_maps * self.wide(tile_px),
            0 if is_whole else bank + self.sampling(),
        )
        room = max(stages) - bank
        is_least = tile_px == self.sizes.tile_sides[-1]
        center_px = self.center_px(room, tile_px if is_least else CENTER_TILES * tile_px)
        num_bytes = LIBRARY_BYTES + kept + bank + max(room, self.learning(center_px))
        return Plan(region_px, tile_px, center_px, dtype, kept_maps, num_bytes)

    def center_px(self, room: int, smallest: int) -> int:
        """The largest parts of the centre that take no more memory than the other stages do."""
        longest = max(self.inputs.center.shape[:2])
        sides = [longest, *(side for side in REGION_SIDES if smallest < side < longest)]
        return next((side for side in sides if self.learning(side) <= room), smallest)

    def searching(self) -> int:
        """Features of both pictures, patches of all keys (and what a shortlist or the clusters keep
        of them), and either a block of scores or the pairs of a strip with its clusters."""
        features = self.model.matching.features
        dim = features.project.out_channels
        num_keys = self.num_ref_px // (SCALE * LR_PER_CELL) ** 2
        sizes = self.sizes
        window = min(self.num_px, (sizes.feature_side + 2 * reach(features)) ** 2)
        vgg = VGG_MAPS * features.vgg_dims[0] * window
        patches = 9 * dim * 2 * num_keys
        blocks = max(
            sizes.search_queries * sizes.search_keys, shortlist.QUERY_BLOCK * shortlist.KEY_BLOCK
        )
        scores = min(blocks, self.num_cells * num_keys)
        exact = 9 * dim * 3 * min(sizes.patch_cells, self.num_cells) + scores
        strip = min(self.num_cells, fast_search.STRIP)
        pairs = strip * fast_search.NUM_PROBES * PAIR_BYTES // FLOAT_BYTES
        clustered = 9 * dim * 2 * strip + pairs
        searched = patches + max(exact, clustered)
        return FLOAT_BYTES * (dim * (self.num_cells + num_keys) + max(vgg, searched))

    def learning(self, center_px: int) -> int:
        """The flow of the whole centre, the features of a part of it, and either what their
        encoders hold or a tile of the alignment."""
        window = min(self.num_ref_px, (SCALE * center_px + 2 * ALIGNMENT_HALO_PX) ** 2)
        tile = min(window, (self.sizes.alignment_side + 2 * ALIGNMENT_HALO_PX) ** 2)
        dim, offsets = self.model.dim, OFFSET_MAPS * self.model.alignment.num_groups
        features = (self.activation_bytes + FLOAT_BYTES) * dim * window
        encoding = ENCODER_MAPS * self.activation_bytes * dim * window
        aligning = FLOAT_BYTES * (ALIGNMENT_MAPS * dim + offsets) * tile
        measuring = 0
        if self.model.trust is not None:
            around = self.sizes.evidence_side + 2 * evidence_reach(self.model.detail_window_px)
            measuring = FLOAT_BYTES * EVIDENCE_MAPS * min(self.num_ref_px, around**2)
        return FLOW_BYTES * self.num_ref_px + features + max(encoding, aligning) + measuring

    def encoding(self, region_px: int) -> int:
        halo = 2 * (reach(self.model.lr_encoder) + TILE_REACH_PX)
        pixels = min(self.num_px, (region_px + halo) ** 2)
        return ENCODER_MAPS * self.activation_bytes * self.model.dim * pixels

    def lr_feat(self, region_px: int) -> int:
        """What a region keeps while its tiles are made."""
        pixels = min(self.num_px, (region_px + 2 * TILE_REACH_PX) ** 2)
        return self.activation_bytes * self.model.dim * pixels

    def fusing(self, tile_px: int) -> int:
        """The fusion's widest maps, on the 2x grid, and what its decoder reads; autocast leaves
        some of them in float32."""
        wide, decoded = (
            min(self.num_px, (side + 2 * TILE_REACH_PX) ** 2) * SCALE**2
            for side in (tile_px, DECODER_TILES * tile_px)
        )
        fusion = self.model.fusion
        return FLOAT_BYTES * (FUSION_MAPS * fusion.wide_dim * wide + 2 * fusion.dim * decoded)

    def wide(self, tile_px: int) -> int:
        """The fusion's widest map of the whole frame, in windows that overlap."""
        fusion = self.model.fusion
        overlap = 2 * gated_halo(fusion)
        height, width = (
            side + overlap * (math.ceil(side / tile_px) - 1) for side in self.inputs.size
        )
        return self.activation_bytes * fusion.wide_dim * SCALE**2 * height * width

    def sampling(self) -> int:
        pixels = (sample.GRID * sample.room()) ** 2
        return ENCODER_MAPS * self.activation_bytes * self.model.dim * pixels


TILE_REACH_PX = 12
"""LR pixels that a tile reads around itself."""


def default_room(device: torch.device, share: float) -> float:
    """Bytes that may be taken where no limit is given."""
    free = free_bytes(device)
    if device.type == "cuda":
        return min(FREE_SHARE * share * card_bytes(device), float(free))
    return FREE_SHARE * share * free


def card_bytes(device: torch.device) -> int:
    """What this process may take of a GPU in all."""
    total = torch.cuda.mem_get_info(device)[1]
    return int(torch.cuda.get_per_process_memory_fraction(device) * total)


def held_bytes(device: torch.device) -> int:
    """What this process holds now; of a GPU, what torch does."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return process_memory.held_bytes()


def peak_bytes(device: torch.device) -> int:
    """Most that this process held so far; of a GPU, that torch took there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return process_memory.peak_bytes()


def free_bytes(device: torch.device) -> int:
    """What could still be taken, within the limit of the container where there is one; of a GPU,
    also what torch's allocator holds and would use again."""
    if device.type == "cuda":
        allocated = torch.cuda.memory_allocated(device)
        cached = torch.cuda.memory_reserved(device) - allocated
        free = torch.cuda.mem_get_info(device)[0] + cached
        return min(free, card_bytes(device) - allocated)
    return process_memory.free_bytes()
