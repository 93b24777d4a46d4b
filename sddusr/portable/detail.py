"""Ref's detail for a whole frame: measured tile by tile, kept in cells, placed where it belongs."""

from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float32, Int

from sddusr.config import SCALE
from sddusr.config.ref_statistics import BLOCK_PX
from sddusr.geometry.box import Box, crop, whole
from sddusr.geometry.tiling import grown, overlap, scaled, snapped, tiles, within
from sddusr.imaging.arrays import Pixels
from sddusr.portable.arrays import cut, part
from sddusr.portable.package import Package
from sddusr.portable.search import Search
from sddusr.portable.statistics import pool_blocks, statistics
from sddusr.portable.transfer import CELL, CellBank, transfer_patches

NUM_MAPS = 5
"""Detail (3 colours), the centre's look, the logit of the detail's trust."""
TILE_PX = 512
"""Side of the tiles in which evidence is measured, HR pixels; a multiple of cells and blocks."""
BICUBIC_REACH_PX = 2
"""LR pixels that the bicubic enlargement looks at on each side."""


class RefDetail:
    """Ref on its box as it was given, the evidence for it, and its maps in cells.

    Args:
        lr: the whole wide picture, sides even.
        box: where `ref` lies in the result, at any phase of the grid.
        snapped_box: the part of it on the matching grid.
    """

    def __init__(
        self, package: Package, lr: Pixels, ref: Pixels, box: Box, snapped_box: Box
    ) -> None:
        self.package, self.lr, self.ref = package, lr, ref
        self.box, self.snapped = box, snapped_box
        self.outer = snapped(box, CELL)
        """The cells that the box touches, in HR pixels."""
        self.in_box = within(snapped_box, box)
        """The snapped box in the box's own pixels."""
        self.reach = package.manifest.reaches.evidence_px
        self.bank = CellBank(self.outer.height // CELL, self.outer.width // CELL, NUM_MAPS)
        self._measure()
        self.statistics = self._statistics()

    def evidence(
        self, window: Box
    ) -> tuple[Float32[np.ndarray, "1 8 _ _"], Float32[np.ndarray, "1 1 _ _"]]:
        """The local evidence on a rectangle of the snapped box, in its own pixels; and what doubt
        takes off the logits there."""
        place = window.shifted(self.in_box.y0, self.in_box.x0)
        doubted = grown(place, self.package.manifest.reaches.doubt_px, self.in_box)
        near = grown(doubted, self.reach, self.in_box)
        _, evidence = self.package.run("evidence", *self._pair(near))
        evidence = cut(evidence, within(doubted, near))
        penalty = self.package.first("penalty", evidence, self.statistics)
        inner = within(place, doubted)
        return cut(evidence, inner), cut(penalty, inner)

    def put_logit(self, logit: Float32[np.ndarray, "1 1 _ _"], core: Box) -> None:
        """Write the trust's logit of a part of the snapped box, whole cells."""
        y, x = ((edge + start) // CELL for edge, start in zip(
            (core.y0, core.x0), self._first_px(), strict=True))  # fmt: skip
        self.bank.put(logit, y, x, NUM_MAPS - 1)

    def close(self) -> None:
        """Repeat the logit in the cells that the snapped box leaves out, and all in the ring."""
        cells = self.bank.cells[1:-1, 1:-1, :, :, NUM_MAPS - 1]
        first_y, first_x = (start // CELL for start in self._first_px())
        if first_y:
            cells[0] = cells[1, :, :1]
        if first_y + self.snapped.height // CELL < cells.shape[0]:
            cells[-1] = cells[-2, :, -1:]
        if first_x:
            cells[:, 0] = cells[:, 1, :, :1]
        if first_x + self.snapped.width // CELL < cells.shape[1]:
            cells[:, -1] = cells[:, -2, :, -1:]
        self.bank.close()

    def on(
        self, cells: Box, all_cells: Box, found: Search
    ) -> tuple[Float32[np.ndarray, "1 5 _ _"], Bool[np.ndarray, "1 1 _ _"]]:
        """The maps on some cells of the frame, and which pixels lie inside the box."""
        ring = grown(cells, 1, all_cells)
        index = self._outer_index(crop(found.key_index, ring))
        moved = transfer_patches(self.bank, index, crop(found.weight, ring))
        moved = cut(moved, scaled(within(cells, ring), CELL)).copy()
        window = scaled(cells, CELL)
        inside = np.zeros((1, 1, *moved.shape[2:]), bool)
        area = overlap(window, self.box)
        if area is not None:
            place = within(area, window)
            cut(moved, place)[:] = self._own(area)
            cut(inside, place)[:] = True
        return moved, inside

    def _first_px(self) -> tuple[int, int]:
        """The snapped box's first pixel among the outer cells'."""
        return self.snapped.y0 - self.outer.y0, self.snapped.x0 - self.outer.x0

    def _own(self, area: Box) -> Float32[np.ndarray, "1 5 _ _"]:
        """The maps at their own place, for a rectangle of HR pixels inside the box."""
        near = within(snapped(area, CELL), self.outer)
        maps = self.bank.part(scaled(near, Fraction(1, CELL)))
        return cut(maps, within(within(area, self.outer), near))

    def _outer_index(self, key_index: Int[np.ndarray, "y x"]) -> Int[np.ndarray, "y x"]:
        """Key cells of the snapped box as cells of the outer one."""
        first_y, first_x = (start // CELL for start in self._first_px())
        y, x = np.divmod(key_index, self.snapped.width // CELL)
        return (y + first_y) * (self.outer.width // CELL) + x + first_x

    def _pair(
        self, window: Box
    ) -> tuple[Float32[np.ndarray, "1 3 h w"], Float32[np.ndarray, "1 3 h w"]]:
        """Ref and the enlarged centre on a rectangle of the box, in the box's own pixels."""
        place = window.shifted(self.box.y0, self.box.x0)
        near = scaled(snapped(place, SCALE), Fraction(1, SCALE))
        near = grown(near, BICUBIC_REACH_PX, whole(*self.lr.shape[:2]))
        large = self.package.first("enlarge", part(self.lr, near))
        return part(self.ref, window), cut(large, within(place, scaled(near, SCALE)))

    def _measure(self) -> None:
        """Fill in detail and look; the logit is to be put in."""
        frame = whole(self.box.height, self.box.width)
        place = within(self.box, self.outer)
        for core in tiles(whole(self.outer.height, self.outer.width), TILE_PX, CELL):
            own = overlap(core, place)
            assert own is not None  # the outer cells reach less than a cell beyond the box
            own_in_box = within(own, place)
            near = grown(own_in_box, self.reach, frame)
            maps, _ = self.package.run("evidence", *self._pair(near))
            maps = cut(maps, within(own_in_box, near))
            beyond = (own.y0 - core.y0, core.y1 - own.y1), (own.x0 - core.x0, core.x1 - own.x1)
            maps = np.pad(maps, ((0, 0), (0, 0), *beyond), mode="edge")
            self.bank.put(maps, core.y0 // CELL, core.x0 // CELL)

    def _statistics(self) -> Float32[np.ndarray, "1 12"]:
        """Of the snapped box, from its whole blocks."""
        frame = self.in_box
        size = frame.height // BLOCK_PX * BLOCK_PX, frame.width // BLOCK_PX * BLOCK_PX
        blocks = []
        for core in tiles(whole(*size), TILE_PX, BLOCK_PX):
            place = core.shifted(frame.y0, frame.x0)
            near = grown(place, self.reach, frame)
            maps = self.package.first("block_maps", *self._pair(near))
            blocks.append(pool_blocks(cut(maps, within(place, near))))
        return statistics(np.concatenate(blocks, axis=2))
