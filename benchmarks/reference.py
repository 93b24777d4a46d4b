"""The plain way: what the parent works do, kept simple, float32 and contiguous.

A wide picture is taken in overlapping chunks of 144x144 pixels. For each chunk the key features and
the patches of Ref are computed again, one product gives all scores, `max(dim)` picks the keys, and
5,184-wide patches are gathered and folded. Training multiplies by the one-hot matrix literally.
It shares the network's layers and nothing of how ours runs them, so tests take it as the truth.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from sddusr.imaging.resize import bicubic_up
from sddusr.model.sddusr import SDDuSR

CHUNK_PX = 144
"""Side of a chunk of LR."""

OVERLAP_PX = 16
"""What neighbouring chunks share; half of it is thrown away on each side."""

LR_PER_CELL, HR_PER_CELL = 2, 4
FOLD = {"kernel_size": 9, "stride": 4, "padding": 4}


class Span(NamedTuple):
    """Of one axis: what a chunk reads, and what it keeps, in LR pixels."""

    start: int
    stop: int
    kept_from: int
    kept_to: int


def spans(length: int) -> list[Span]:
    """Chunks along an axis, the last one moved back so that it ends with the picture."""
    side, step = min(CHUNK_PX, length), CHUNK_PX - OVERLAP_PX
    starts = [*range(0, length - side, step), length - side]
    cuts = [0, *(start + OVERLAP_PX // 2 for start in starts[1:]), length]
    return [Span(start, start + side, cuts[i], cuts[i + 1]) for i, start in enumerate(starts)]


def chunks(height: int, width: int) -> Iterator[tuple[Span, Span]]:
    for y in spans(height):
        for x in spans(width):
            yield y, x


def patches(features: Tensor) -> Tensor:
    """Unit 3x3 patches, (b, 9·d, cells)."""
    return F.normalize(F.unfold(F.pad(features, (1, 1, 1, 1), mode="reflect"), 3), dim=1)


def search(query_feat: Tensor, key_feat: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and index of each query's best key: the whole matrix, then `max(dim)`."""
    score = torch.bmm(patches(query_feat).transpose(1, 2), patches(key_feat))
    return score.max(dim=2)


def transfer(aligned_feat: Tensor, index: Tensor, size: tuple[int, int]) -> Tensor:
    """Ref patches gathered by an index for each cell, and folded into a feature of `size`."""
    source = F.unfold(F.pad(aligned_feat, (4, 4, 4, 4), mode="replicate"), 9, stride=4)
    moved = source.gather(2, index.unsqueeze(1).expand(-1, source.shape[1], -1))
    return F.fold(moved, size, **FOLD) / F.fold(torch.ones_like(moved), size, **FOLD)


def match(query_feat: Tensor, key_feat: Tensor, aligned_feat: Tensor) -> tuple[Tensor, ...]:
    """Confidence (b, 1, hq, wq), index (b, hq·wq) and warped feature of one chunk."""
    rows, cols = query_feat.shape[2:]
    confidence, index = search(query_feat, key_feat)
    warped = transfer(aligned_feat, index, (HR_PER_CELL * rows, HR_PER_CELL * cols))
    return confidence.unflatten(1, (1, rows, cols)), index, warped


def match_features(
    query_feat: Tensor, key_feat: Tensor, aligned_feat: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`match` of a whole picture's features, chunk by chunk."""
    return _match_in_chunks(
        tuple(LR_PER_CELL * side for side in query_feat.shape[2:]),
        lambda y, x: query_feat[..., y.start // 2 : y.stop // 2, x.start // 2 : x.stop // 2],
        lambda: key_feat,
        aligned_feat,
    )


def match_pictures(
    features: Callable[[Tensor], Tensor], lr: Tensor, lr_center: Tensor, aligned_feat: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same from pictures: features of chunk and centre are computed for every chunk."""
    return _match_in_chunks(
        tuple(lr.shape[2:]),
        lambda y, x: features(lr[..., y.start : y.stop, x.start : x.stop]),
        lambda: features(lr_center),
        aligned_feat,
    )


def _match_in_chunks(
    size: tuple[int, ...],
    query_of: Callable[[Span, Span], Tensor],
    key_of: Callable[[], Tensor],
    aligned_feat: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, cols = (side // LR_PER_CELL for side in size)
    confidence = aligned_feat.new_empty(1, 1, rows, cols)
    index = torch.empty(1, 1, rows, cols, dtype=torch.long, device=confidence.device)
    warped = aligned_feat.new_empty(
        1, aligned_feat.shape[1], HR_PER_CELL * rows, HR_PER_CELL * cols
    )
    for y, x in chunks(size[0], size[1]):
        query_feat = query_of(y, x)
        found, chosen, moved = match(query_feat, key_of(), aligned_feat)
        _put(confidence, found, y, x, 0.5)
        _put(index, chosen.view_as(found), y, x, 0.5)
        _put(warped, moved, y, x, 2)
    return confidence, index.flatten(1), warped


def _put(whole: Tensor, piece: Tensor, y: Span, x: Span, scale: float) -> None:
    """Keep a chunk's part of the result; `scale` pixels of it to one of LR."""
    y0, y1, x0, x1 = (
        int(scale * edge) for edge in (y.kept_from, y.kept_to, x.kept_from, x.kept_to)
    )
    top, left = int(scale * y.start), int(scale * x.start)
    whole[..., y0:y1, x0:x1] = piece[..., y0 - top : y1 - top, x0 - left : x1 - left]


def align(model: SDDuSR, lr_center: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
    """Centre feature and aligned Ref feature, by torchvision's deformable convolution."""
    part = model.alignment
    center_feat, ref_feat = model.center_encoder(lr_center), model.ref_encoder(ref)
    flow = part.flow(lr_center, ref)
    warped = _warp_by_flow(ref_feat, flow)
    hints = part.offset_tail(part.offset_head(torch.cat([warped, center_feat, flow], dim=1)))
    shift_y, shift_x, gate = hints.chunk(3, dim=1)
    shift = part.max_offset_px * torch.tanh(torch.stack([shift_y, shift_x], dim=2))
    offset = (shift + flow.flip(1).unsqueeze(1)).flatten(1, 2)
    kernel, bias = part.conv.weight, part.conv.bias
    gate = torch.sigmoid(gate)
    return center_feat, deform_conv2d(ref_feat, offset, kernel, bias, padding=(1, 1), mask=gate)


def _warp_by_flow(picture: Tensor, flow: Tensor) -> Tensor:
    rows, cols = flow.shape[2:]
    y, x = (torch.arange(side, device=flow.device) for side in (rows, cols))
    y, x = torch.meshgrid(y, x, indexing="ij")
    at_x = (x + flow[:, 0]) * (2 / max(cols - 1, 1)) - 1
    at_y = (y + flow[:, 1]) * (2 / max(rows - 1, 1)) - 1
    grid = torch.stack([at_x, at_y], dim=-1)
    return F.grid_sample(picture, grid, padding_mode="border", align_corners=True)


def super_resolve(model: SDDuSR, lr: Tensor, lr_center: Tensor, ref: Tensor) -> Tensor:
    """A whole picture: Ref is aligned once, everything else is done for each chunk.

    Every query is searched for, as the parents have no masks.
    """
    center_feat, aligned_feat = align(model, lr_center, ref)
    whole = lr.new_empty(1, 3, 2 * lr.shape[2], 2 * lr.shape[3])
    for y, x in chunks(lr.shape[2], lr.shape[3]):
        chunk = lr[..., y.start : y.stop, x.start : x.stop]
        lr_feat = model.lr_encoder(chunk)
        features = model.matching.features
        confidence, _, warped = match(features(chunk), features(lr_center), aligned_feat)
        _put(
            whole,
            _fused(model, chunk, lr_feat, confidence, warped, center_feat, aligned_feat),
            y,
            x,
            2,
        )
    return whole


def _fused(
    model: SDDuSR,
    lr: Tensor,
    lr_feat: Tensor,
    confidence: Tensor,
    warped: Tensor,
    center_feat: Tensor,
    aligned_feat: Tensor,
) -> Tensor:
    dict_feat = None
    if model.dictionary is not None:
        dict_feat = model.dictionary(lr_feat, center_feat, aligned_feat)
    sources = model.sources(confidence, warped, dict_feat)
    return model.picture(model.head(model.fusion(lr_feat, *sources)).float(), bicubic_up(lr))


def assign(query_feat: Tensor, key_feat: Tensor, aligned_feat: Tensor) -> tuple[Tensor, Tensor]:
    """Eqs. 2 to 5 as they are printed: every matrix is made, and multiplied by."""
    rows, cols = query_feat.shape[2:]
    score = torch.bmm(patches(key_feat).transpose(1, 2), patches(query_feat))
    soft = torch.softmax(score, dim=1)
    onehot = torch.zeros_like(score).scatter_(1, score.argmax(dim=1, keepdim=True), 1.0)
    assignment = onehot + soft - soft.detach()
    confidence = (score * assignment).sum(dim=1).unflatten(1, (1, rows, cols))
    source = F.unfold(F.pad(aligned_feat, (4, 4, 4, 4), mode="replicate"), 9, stride=4)
    moved = torch.bmm(source, assignment)
    size = (HR_PER_CELL * rows, HR_PER_CELL * cols)
    return confidence, F.fold(moved, size, **FOLD) / F.fold(torch.ones_like(moved), size, **FOLD)


def train_forward(model: SDDuSR, lr: Tensor, lr_center: Tensor, ref: Tensor) -> Tensor:
    """SR of a training batch."""
    lr_feat = model.lr_encoder(lr)
    center_feat, aligned_feat = align(model, lr_center, ref)
    features = model.matching.features
    confidence, warped = assign(features(lr), features(lr_center), aligned_feat)
    return _fused(model, lr, lr_feat, confidence, warped, center_feat, aligned_feat)
