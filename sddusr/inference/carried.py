"""Ref's detail for a whole frame: measured tile by tile, kept in cells, laid where it belongs."""

from dataclasses import dataclass, field
from fractions import Fraction

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from sddusr.config import SCALE
from sddusr.config.ref_statistics import BLOCK_PX
from sddusr.geometry.box import Box, whole
from sddusr.imaging.resize import bicubic_up
from sddusr.inference.conversion import Pixels, Uploads, part_on
from sddusr.inference.tiles import cut, grown, overlap, scaled, snapped, tiles, within
from sddusr.model.evidence import (
    block_maps,
    measure_evidence,
    pool_blocks,
    reach,
    ref_detail,
    split_bands,
    statistics,
)
from sddusr.model.filters import high_pass, luma
from sddusr.model.matching.matcher import Search
from sddusr.model.matching.transfer import CELL, CellBank, transfer_patches
from sddusr.model.sddusr import SDDuSR
from sddusr.model.tuning import tuning

NUM_MAPS = 5
"""Detail (3 colours), the centre's look, the logit of the detail's trust."""
BICUBIC_REACH_PX = 2
"""LR pixels that the bicubic enlargement looks at on each side."""


@dataclass(frozen=True, kw_only=True)
class DetailInputs:
    """Ref on its box as it was given, and the wide picture that it shows a part of."""

    ref: Pixels
    """At HR density."""
    lr: Pixels
    """The whole wide picture: at the box's border its enlargement looks beyond the box."""
    box: Box
    """Where Ref lies in the result, at any phase of the grid."""
    snapped: Box
    """The part of it on the matching grid."""
    uploads: Uploads | None = None
    """Holds the images on a GPU once they were read there."""

    def part(
        self, window: Box, device: torch.device
    ) -> tuple[Float[Tensor, "1 3 _ _"], Float[Tensor, "1 3 _ _"]]:
        """Ref and the enlarged centre on a rectangle of the box, in the box's own pixels."""
        ref = part_on(device, self.ref, window, self.uploads)
        place = window.shifted(self.box.y0, self.box.x0)
        near = scaled(snapped(place, SCALE), Fraction(1, SCALE))
        near = grown(near, BICUBIC_REACH_PX, whole(*self.lr.shape[:2]))
        large = bicubic_up(part_on(device, self.lr, near, self.uploads))
        return ref, cut(large, within(place, scaled(near, SCALE)))


@dataclass(kw_only=True)
class CarriedBank:
    """Detail, look and logit of the box, in cells of the matching grid around it."""

    inputs: DetailInputs
    outer: Box
    """The cells that the box touches, in HR pixels."""
    bank: CellBank
    statistics: Float[Tensor, "1 12"]
    key_index: Int[Tensor, "1 q"]
    """For each query cell, the flat index of its key among the outer cells."""
    key_shape: tuple[int, int]
    first_cell: tuple[int, int] = field(init=False)
    """Row and column of the first key cell among the outer cells."""

    def __post_init__(self) -> None:
        snapped_box = self.inputs.snapped
        self.first_cell = (
            (snapped_box.y0 - self.outer.y0) // CELL,
            (snapped_box.x0 - self.outer.x0) // CELL,
        )

    def evidence(
        self, model: SDDuSR, window: Box, device: torch.device
    ) -> tuple[Float[Tensor, "1 8 _ _"], Float[Tensor, "1 1 _ _"]]:
        """The local evidence on a rectangle of the snapped box, in its own pixels; and what doubt
        takes off the logits there."""
        assert model.trust is not None
        window_px, frame = model.detail_window_px, _snapped_in_box(self.inputs)
        place = window.shifted(frame.y0, frame.x0)
        doubted = grown(place, model.trust.doubt_px // 2, frame)
        near = grown(doubted, reach(window_px), frame)
        bands = split_bands(*self.inputs.part(near, device), window_px)
        evidence = cut(measure_evidence(bands, window_px).evidence, within(doubted, near))
        penalty = model.trust.penalty(evidence, self.statistics)
        inner = within(place, doubted)
        return cut(evidence, inner), cut(penalty, inner)

    def put_logit(self, logit: Float[Tensor, "1 1 _ _"], core: Box) -> None:
        """Write the trust's logit of a part of the snapped box, whole cells."""
        y, x = (
            1 + first + start // CELL
            for first, start in zip(self.first_cell, (core.y0, core.x0), strict=True)
        )
        cells = rearrange(logit, "1 1 (y p) (x r) -> y x p r", p=CELL, r=CELL)
        rows, cols = cells.shape[:2]
        self.bank.cells[0, y : y + rows, x : x + cols, :, :, NUM_MAPS - 1] = cells

    def close(self) -> "CarriedBank":
        """Repeat the logit in the cells that the snapped box leaves out, and all in the ring."""
        cells = self.bank.cells[0, 1:-1, 1:-1, :, :, NUM_MAPS - 1]
        (first_y, first_x), (rows, cols) = self.first_cell, self.key_shape
        if first_y:
            cells[0] = cells[1, :, :1]
        if first_y + rows < cells.shape[0]:
            cells[-1] = cells[-2, :, -1:]
        if first_x:
            cells[:, 0] = cells[:, 1, :, :1]
        if first_x + cols < cells.shape[1]:
            cells[:, -1] = cells[:, -2, :, -1:]
        self.bank.close()
        return self

    def on(
        self,
        cells: Box,
        all_cells: Box,
        weight: Float[Tensor, "1 1 _ _"],
    ) -> tuple[Float[Tensor, "1 5 _ _"], Tensor]:
        """The maps on some cells of the frame, and which pixels lie inside the box.

        Args:
            cells: in cells of the frame.
            weight: of the whole frame: 0 where a cell took no part in the search.
        """
        ring = grown(cells, 1, all_cells)
        index = rearrange(self.key_index, "b (y x) -> b 1 y x", y=all_cells.height)
        moved = transfer_patches(self.bank, cut(index, ring).flatten(1), cut(weight, ring))
        moved = cut(moved, scaled(within(cells, ring), CELL)).float()
        window = scaled(cells, CELL)
        inside = torch.zeros_like(moved[:, :1], dtype=torch.bool)
        area = overlap(window, self.inputs.box)
        if area is not None:
            place = within(area, window)
            cut(moved, place).copy_(self._own(area))
            cut(inside, place).fill_(True)
        return moved, inside

    def _own(self, area: Box) -> Float[Tensor, "1 5 _ _"]:
        """The maps at their own place, for a rectangle of HR pixels inside the box."""
        near = within(snapped(area, CELL), self.outer)
        y0, y1, x0, x1 = (1 + edge // CELL for edge in near)
        cells = self.bank.cells[:, y0:y1, x0:x1]
        maps = rearrange(cells, "b y x p r c -> b c (y p) (x r)")
        return cut(maps, within(within(area, self.outer), near))


def carry_detail(
    model: SDDuSR, inputs: DetailInputs, found: Search, device: torch.device, dtype: torch.dtype
) -> CarriedBank:
    """Measure detail and look on the box as it was given; the logit is to be put in."""
    outer = snapped(inputs.box, CELL)
    rows, cols = outer.height // CELL, outer.width // CELL
    like = torch.empty(0, dtype=dtype, device=device)
    bank = CellBank.empty(rows, cols, NUM_MAPS, like)
    bank.cells[..., NUM_MAPS - 1] = 0
    window_px = model.detail_window_px
    frame = whole(inputs.box.height, inputs.box.width)
    place = within(inputs.box, outer)
    for core in tiles(whole(outer.height, outer.width), tuning(device).evidence_side, CELL):
        own = overlap(core, place)
        assert own is not None  # the outer cells reach less than a cell beyond the box
        own_in_box = within(own, place)
        near = grown(own_in_box, reach(window_px), frame)
        ref, center = inputs.part(near, device)
        look = luma(high_pass(center, window_px))
        maps = torch.cat([ref_detail(ref, center, window_px), look], 1)
        maps = cut(maps, within(own_in_box, near))
        beyond = own.x0 - core.x0, core.x1 - own.x1, own.y0 - core.y0, core.y1 - own.y1
        maps = F.pad(maps, beyond, mode="replicate")
        _put_maps(bank, maps, core.y0 // CELL, core.x0 // CELL)
    key_shape = inputs.snapped.height // CELL, inputs.snapped.width // CELL
    return CarriedBank(
        inputs=inputs,
        outer=outer,
        bank=bank,
        statistics=_statistics(inputs, window_px, device),
        key_index=_outer_index(found.key_index, inputs, outer, key_shape),
        key_shape=key_shape,
    )


def _put_maps(bank: CellBank, maps: Float[Tensor, "1 4 _ _"], y: int, x: int) -> None:
    cells = rearrange(maps, "1 c (y p) (x r) -> y x p r c", p=CELL, r=CELL)
    rows, cols = cells.shape[:2]
    bank.cells[0, 1 + y : 1 + y + rows, 1 + x : 1 + x + cols, :, :, : NUM_MAPS - 1] = cells


def _outer_index(
    key_index: Int[Tensor, "1 q"], inputs: DetailInputs, outer: Box, key_shape: tuple[int, int]
) -> Int[Tensor, "1 q"]:
    """Key cells of the snapped box as cells of the outer one."""
    first_y = (inputs.snapped.y0 - outer.y0) // CELL
    first_x = (inputs.snapped.x0 - outer.x0) // CELL
    y, x = key_index // key_shape[1] + first_y, key_index % key_shape[1] + first_x
    return y * (outer.width // CELL) + x


def _statistics(
    inputs: DetailInputs, window_px: int, device: torch.device
) -> Float[Tensor, "1 12"]:
    """Of the snapped box."""
    frame = _snapped_in_box(inputs)
    size = frame.height // BLOCK_PX * BLOCK_PX, frame.width // BLOCK_PX * BLOCK_PX
    blocks = []
    for core in tiles(whole(*size), tuning(device).evidence_side, BLOCK_PX):
        place = core.shifted(frame.y0, frame.x0)
        near = grown(place, reach(window_px), frame)
        maps = block_maps(split_bands(*inputs.part(near, device), window_px))
        blocks.append(pool_blocks(cut(maps, within(place, near))))
    return statistics(torch.cat(blocks, dim=2))


def _snapped_in_box(inputs: DetailInputs) -> Box:
    return within(inputs.snapped, inputs.box)
