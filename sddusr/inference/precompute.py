"""What all tiles of a picture share, computed once for the frame."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sddusr.config import LR_PER_CELL, SCALE
from sddusr.geometry.box import HR_PER_CELL, Box, whole
from sddusr.imaging.allocator import keeping_freed_memory
from sddusr.inference.carried import CarriedBank, DetailInputs, carry_detail
from sddusr.inference.conversion import Pixels, Uploads, part_on
from sddusr.inference.tiles import cut, grown, in_tiles, reach, scaled, tiles, within
from sddusr.model.deformable import exact_planes
from sddusr.model.matching.fast_search import MatchingMode
from sddusr.model.matching.matcher import Search
from sddusr.model.matching.nearest_key import Progress
from sddusr.model.matching.transfer import CELL, CellBank
from sddusr.model.matching.twins import CenterPlace
from sddusr.model.sddusr import SDDuSR
from sddusr.model.tuning import tuning

ALIGNMENT_HALO_PX = 32
"""Of the 2x grid: what the alignment of a part of the centre may read around it; where the flow
asks for more, the part is cut smaller."""


class Inputs(NamedTuple):
    """The network's three images, sides even, on the CPU."""

    lr: Pixels
    center: Pixels
    ref: Pixels
    """On the 2x grid of `center`."""
    device: torch.device
    detail: DetailInputs | None = None
    """Ref on its box as it was given; None without Ref."""
    uploads: Uploads | None = None
    """Holds the images on a GPU once they were read there; None: each part is copied by itself."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frame, LR pixels."""
        return self.lr.shape[0], self.lr.shape[1]

    @property
    def frame(self) -> Box:
        return whole(*self.size)

    def part(self, name: str, box: Box) -> Float[Tensor, "1 3 _ _"]:
        """A rectangle of a picture as the network reads it."""
        return part_on(self.device, getattr(self, name), box, self.uploads)

    def whole(self, name: str) -> Float[Tensor, "1 3 _ _"]:
        pixels = getattr(self, name)
        return part_on(self.device, pixels, whole(*pixels.shape[:2]), self.uploads)


class FrameFeatures(NamedTuple):
    """What the centre tells about the rest of the picture."""

    found: Search
    bank: CellBank | None
    """The aligned Ref feature; None without Ref."""
    tokens: tuple[Tensor, Tensor] | None
    """The refined dictionaries."""
    carried: CarriedBank | None = None
    """Ref's detail; None where the network has no detail skip."""


def search(
    model: SDDuSR,
    inputs: Inputs,
    progress: Progress,
    mode: MatchingMode = "exact",
    box: Box | None = None,
) -> Search:
    """Masks, matches and confidences of the whole frame.

    Args:
        box: where the centre was cut out of LR, HR pixels; None: not known.
    """
    place = box and center_place(model, box)
    found = model.matching.search(*matching_features(model, inputs), progress, mode, place)
    if model.trust is not None and inputs.detail is not None:
        cells = scaled(inputs.detail.snapped, Fraction(1, CELL))
        cut(found.confidence, cells).fill_(1)  # a cell of the centre is its own twin
    return found


def matching_features(
    model: SDDuSR, inputs: Inputs
) -> tuple[Float[Tensor, "1 d hq wq"], Float[Tensor, "1 d hk wk"]]:
    """Features of LR and of its centre on the matching grid, computed in tiles."""
    compute = model.matching.features
    query, key = (
        in_tiles(
            lambda window, name=name: compute(inputs.part(name, window)).float(),
            whole(*getattr(inputs, name).shape[:2]),
            tuning(inputs.device).feature_side,
            reach(compute),
            Fraction(1, LR_PER_CELL),
        )
        for name in ("lr", "center")
    )
    return query, key


def center_place(model: SDDuSR, box: Box) -> CenterPlace:
    """Where a box in HR pixels lies on the matching grid."""
    reach_px = reach(model.matching.features)
    return CenterPlace(scaled(box, Fraction(1, HR_PER_CELL)), math.ceil(reach_px / LR_PER_CELL))


def nothing_found(inputs: Inputs) -> Search:
    """A search that found nothing, as there is no Ref."""
    rows, cols = (side // LR_PER_CELL for side in inputs.size)
    nothing = torch.zeros(1, 1, rows, cols, device=inputs.device)
    index = torch.zeros(1, rows * cols, dtype=torch.long, device=inputs.device)
    return Search(index, nothing, nothing, is_sparse=False, key_mask=None)


def precompute_features(
    model: SDDuSR,
    inputs: Inputs,
    found: Search,
    *,
    side: int,
    dtype: torch.dtype,
    progress: Progress,
    trust: float = 1.0,
) -> FrameFeatures:
    """Align Ref, refine the dictionaries and measure Ref's detail, tile by tile.

    Args:
        trust: scales how far Ref's feature is used, where the network has a detail skip.
        side: of a part of the centre whose features are held at once, pixels of the 2x grid, a
            multiple of a cell.
        dtype: what the aligned feature is kept in.
    """
    rows, cols = (length // CELL for length in inputs.ref.shape[:2])
    like = torch.empty(0, dtype=dtype, device=inputs.device)
    bank = CellBank.empty(rows, cols, model.dim, like)
    carried = None
    if model.trust is not None and inputs.detail is not None:
        carried = carry_detail(model, inputs.detail, found, inputs.device, dtype)
    pieces = _aligned_pieces(model, inputs, bank, side, progress, carried, trust)
    if model.dictionary is not None:
        tokens = model.dictionary.refine_in_pieces(pieces)
    else:
        tokens = None
        for _ in pieces:
            pass
    return FrameFeatures(found, bank.close(), tokens, carried and carried.close())


def _aligned_pieces(
    model: SDDuSR,
    inputs: Inputs,
    bank: CellBank,
    side: int,
    progress: Progress,
    carried: CarriedBank | None,
    trust: float,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Centre feature and aligned Ref feature, tile by tile; the latter is put into the bank."""
    sizes = tuning(inputs.device)
    flow = model.alignment.flow(
        inputs.whole("center"),
        inputs.whole("ref"),
        lambda level, x: in_tiles(
            lambda window: level(cut(x, window)),
            whole(*x.shape[2:]),
            sizes.flow_side,
            reach(level),
        ),
    )
    frame = whole(*inputs.ref.shape[:2])
    done = 0
    for region, around in _alignment_regions(model, flow, frame, side):
        near = grown(region, around, frame, SCALE)
        center_feat, ref_feat = _encoded(model, inputs, near, frame)
        ref_feat = exact_planes(ref_feat)
        for core in tiles(region, sizes.alignment_side, CELL):
            gated = grown(core, trust_reach(model), frame)
            window = grown(gated, hint_reach(model), frame)
            place = within(window, near)
            aligned_feat = model.alignment.align(
                cut(flow, window), cut(center_feat, place), ref_feat, (place.y0, place.x0)
            )
            aligned_feat = cut(aligned_feat, within(gated, window))
            if carried is not None:
                center_part = cut(center_feat, within(gated, near))
                share, logit = _trust_in_ref(model, carried, gated, center_part, aligned_feat)
                aligned_feat = (trust * share).to(aligned_feat.dtype) * aligned_feat
                carried.put_logit(cut(logit, within(core, gated)), core)
            aligned_feat = cut(aligned_feat, within(core, gated))
            bank.put(aligned_feat, core.y0 // CELL, core.x0 // CELL)
            yield cut(center_feat, within(core, near)), aligned_feat
            done += core.height * core.width
            progress(done / (frame.height * frame.width))


def _encoded(
    model: SDDuSR, inputs: Inputs, region: Box, frame: Box
) -> tuple[Float[Tensor, "1 c _ _"], Float[Tensor, "1 c _ _"]]:
    """Features of the centre and of Ref on a rectangle of the 2x grid."""
    halo = max(reach(model.ref_encoder), SCALE * reach(model.center_encoder))
    far = grown(region, halo, frame, SCALE)
    with keeping_freed_memory():
        center_feat, ref_feat = (
            cut(encode(inputs.part(name, scaled(far, factor))), within(region, far))
            for encode, name, factor in (
                (model.center_encoder, "center", Fraction(1, SCALE)),
                (model.ref_encoder, "ref", Fraction(1)),
            )
        )
    return center_feat, ref_feat


def _trust_in_ref(
    model: SDDuSR, carried: CarriedBank, region: Box, center_feat: Tensor, aligned_feat: Tensor
) -> tuple[Tensor, Tensor]:
    """The share of the aligned feature that is taken in a region, and the detail's logit."""
    assert model.trust is not None
    evidence, penalty = carried.evidence(model, region, center_feat.device)
    return model.trust.in_ref(evidence, penalty, carried.statistics, center_feat, aligned_feat)


def _alignment_regions(
    model: SDDuSR, flow: Float[Tensor, "1 2 h w"], frame: Box, side: int
) -> Iterator[tuple[Box, int]]:
    """Parts of the centre whose features are held at once, and how far around them their tiles
    read. No window is larger than a calm part's, as far as it goes."""
    for core in tiles(frame, side, CELL):
        around = _alignment_reach(model, flow, core, frame)
        room = max(side + 2 * (ALIGNMENT_HALO_PX - around), 4 * CELL) // CELL * CELL
        if around <= ALIGNMENT_HALO_PX or max(core.height, core.width) <= room:
            yield core, around
        else:
            for part in tiles(core, room, CELL):
                yield part, _alignment_reach(model, flow, part, frame)


def _alignment_reach(model: SDDuSR, flow: Float[Tensor, "1 2 h w"], core: Box, frame: Box) -> int:
    """How far the alignment of a part reads Ref's feature: the flow there and the offsets on it."""
    head, gated = hint_reach(model), trust_reach(model)
    furthest = cut(flow, grown(core, head + gated, frame)).abs().amax().item()
    tap_and_bilinear = 2
    furthest += gated + max(model.alignment.max_offset_px, head)
    return math.ceil(furthest) + tap_and_bilinear


def trust_reach(model: SDDuSR) -> int:
    """How far the trust in Ref's own frame looks at features and evidence."""
    learned = model.trust is not None and model.trust.learned
    return reach(model.trust.of_ref) if learned and model.trust is not None else 0


def hint_reach(model: SDDuSR) -> int:
    """How far the offsets look at what they are read from."""
    return reach(model.alignment.offset_head, model.alignment.offset_tail)
