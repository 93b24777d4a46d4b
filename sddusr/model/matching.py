"""Sparse feature matching: who looks like whom (Eqs. 2 to 5)."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sddusr.config import MaskConfig, MatchingConfig
from sddusr.model.features import MatchingFeatures
from sddusr.model.mask import MaskGenerator, gumbel_noise
from sddusr.model.warp import patches_of_fold, patches_of_source, transfer_patches
from sddusr.types import Match

QUERY_BLOCK = 1024
KEY_BLOCK = 2048
STRIP = 16384
"""Cells whose patches are cut at once."""
KEY_GROUP = 64
"""Keys over which a plain maximum is taken before any index is looked for."""


Progress = Callable[[float], None]
"""Told the share of the work that is done, 0 to 1."""


class Transfer(NamedTuple):
    """What matching hands to the fusion, and the masks that explain it."""

    warped_feat: Float[Tensor, "b c 4*hq 4*wq"]
    confidence: Float[Tensor, "b 1 hq wq"]
    query_mask: Float[Tensor, "b 1 hq wq"] | None
    key_mask: Bool[Tensor, "b 1 hk wk"] | None


class Search(NamedTuple):
    """What inference found for each query cell."""

    key_index: Int[Tensor, "b q"]
    """Flat index into the key grid; 0 where the query did not take part."""
    confidence: Float[Tensor, "b 1 hq wq"]
    weight: Float[Tensor, "b 1 hq wq"]
    """1 where a cell took part in the search and there was a key to be found, else 0."""
    is_sparse: bool
    """Whether a mask chose the queries."""
    key_mask: Bool[Tensor, "b 1 hk wk"] | None


class SparseMatching(nn.Module):
    """I^LR and I^LRC to a key for each query, and the Ref feature re-assembled by them."""

    def __init__(self, config: MatchingConfig, mask: MaskConfig) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.mask_keys = mask.mask_keys
        self.features = MatchingFeatures(config)
        self.mask_generator = MaskGenerator(config.dim) if mask.enabled else None

    def forward(
        self,
        lr: Float[Tensor, "b 3 h w"],
        lr_center: Float[Tensor, "b 3 hc wc"],
        aligned_feat: Float[Tensor, "b c 2*hc 2*wc"],
        seeds: Int[Tensor, "b"] | None = None,
    ) -> Transfer:
        """Training searches everything and masks what was found; inference searches what is kept.

        Args:
            lr: the picture that asks.
            lr_center: the picture that answers.
            aligned_feat: what is moved, on twice `lr_center`'s grid.
            seeds: one for each sample, for the mask's Gumbel noise in training.
        """
        query_feat, key_feat = self.features(lr).float(), self.features(lr_center).float()
        # The best keys of a query differ by less than bfloat16 can tell apart.
        with torch.autocast(lr.device.type, enabled=False):
            if self.training:
                return self._dense_then_mask(query_feat, key_feat, aligned_feat.float(), seeds)
            return self._mask_then_sparse(query_feat, key_feat, aligned_feat.float())

    def _dense_then_mask(
        self, query_feat: Tensor, key_feat: Tensor, aligned_feat: Tensor, seeds: Tensor | None
    ) -> Transfer:
        query, key = unit_patches(query_feat), unit_patches(key_feat)
        index = torch.stack([best_key(q, k)[0] for q, k in zip(query, key, strict=True)])
        confidence = (query * _rows(key, index)).sum(-1)
        if self.mask_generator is None:
            everything = torch.ones_like(query_feat[:, :1])
            warped = transfer_patches(aligned_feat, index, everything)
            return Transfer(warped, _as_map(confidence, query_feat), None, None)
        mask = self.mask_generator.sample(query_feat, self._gumbel(query_feat, seeds))
        warped, confidence = SoftAssignment.apply(
            transfer_patches(aligned_feat, index, mask),
            confidence,
            query,
            key,
            aligned_feat.detach(),
            mask.detach(),
            self.temperature,
        )
        return Transfer(warped, _as_map(confidence, query_feat) * mask, mask, None)

    def search(
        self,
        query_feat: Float[Tensor, "b d hq wq"],
        key_feat: Float[Tensor, "b d hk wk"],
        progress: Progress | None = None,
    ) -> Search:
        """The search of inference: only kept queries meet kept keys."""
        query_mask, key_mask = self._keep(query_feat), None
        if self.mask_keys:
            key_mask = self._keep(key_feat)
        match = sparse_match(query_feat, key_feat, query_mask, key_mask, progress)
        weight = torch.ones_like(query_feat[:, :1]) if query_mask is None else query_mask.float()
        if key_mask is not None:
            weight = weight * key_mask.flatten(1).any(1).view(-1, 1, 1, 1)
        confidence = _as_map(match.confidence, query_feat)
        return Search(match.key_index, confidence, weight, query_mask is not None, key_mask)

    def _mask_then_sparse(
        self, query_feat: Tensor, key_feat: Tensor, aligned_feat: Tensor
    ) -> Transfer:
        found = self.search(query_feat, key_feat)
        warped = transfer_patches(aligned_feat, found.key_index, found.weight)
        query_mask = found.weight if found.is_sparse else None
        return Transfer(warped, found.confidence, query_mask, found.key_mask)

    def _keep(self, features: Tensor) -> Bool[Tensor, "b 1 h w"] | None:
        return None if self.mask_generator is None else self.mask_generator.keep(features)

    @staticmethod
    def _gumbel(features: Tensor, seeds: Tensor | None) -> Tensor:
        if seeds is None:
            seeds = torch.randint(2**31, (len(features),))
        return gumbel_noise(seeds, *features.shape[2:]).to(features.device)


def unit_patches(features: Float[Tensor, "b d h w"]) -> Float[Tensor, "b h*w 9*d"]:
    """3x3 patches at stride 1, reflected at the border, of length 1 (Eq. 2)."""
    patches = F.unfold(F.pad(features, (1, 1, 1, 1), mode="reflect"), kernel_size=3)
    return F.normalize(rearrange(patches, "b d q -> b q d"), dim=-1)


def patch_rows(features: Float[Tensor, "d h w"], start: int, stop: int) -> Float[Tensor, "q _"]:
    """`unit_patches` of the cells in some rows of a picture's features."""
    rows = torch.arange(start - 1, stop + 1, device=features.device).abs()
    last = features.shape[1] - 1
    strip = features.index_select(1, last - (last - rows).abs())
    patches = F.unfold(F.pad(strip.unsqueeze(0), (1, 1, 0, 0), mode="reflect"), kernel_size=3)
    return F.normalize(rearrange(patches, "1 d q -> q d"), dim=-1)


def best_key(
    query: Float[Tensor, "q d"], key: Float[Tensor, "k d"]
) -> tuple[Int[Tensor, "q"], Float[Tensor, "q"]]:
    """Index and cosine of the most similar key of each query; the first one where several tie.

    The score matrix is streamed in blocks. Within a block the maximum of every group of keys is
    taken without indices, which is several times faster than `max(dim)`; only the winning group's
    scores are looked at again.
    """
    with torch.no_grad():
        scores = query.new_empty(min(len(query), QUERY_BLOCK) * _whole_groups(len(key)))
        blocks = [_best_key_of_block(block, key, scores) for block in query.split(QUERY_BLOCK)]
    index, score = zip(*blocks, strict=True)
    return torch.cat(index), torch.cat(score)


def _whole_groups(num_keys: int) -> int:
    """Scores of a block of keys, up to whole groups."""
    return -(-min(num_keys, KEY_BLOCK) // KEY_GROUP) * KEY_GROUP


def _best_key_of_block(
    query: Tensor, key: Tensor, buffer: Float[Tensor, "n"]
) -> tuple[Int[Tensor, "q"], Float[Tensor, "q"]]:
    best_score = query.new_full((len(query),), -torch.inf)
    best_index = torch.zeros(len(query), dtype=torch.long, device=query.device)
    every = torch.arange(len(query), device=query.device)
    for start in range(0, len(key), KEY_BLOCK):
        keys = key[start : start + KEY_BLOCK]
        width = _whole_groups(len(keys))
        scores = buffer[: len(query) * width].view(len(query), width)
        scores[:, len(keys) :] = -torch.inf
        torch.mm(query, keys.T, out=scores[:, : len(keys)])
        groups = scores.unflatten(1, (-1, KEY_GROUP))
        score, group = groups.amax(dim=2).max(dim=1)
        index = start + group * KEY_GROUP + groups[every, group].argmax(dim=1)
        better = score > best_score
        best_score = torch.where(better, score, best_score)
        best_index = torch.where(better, index, best_index)
    return best_index, best_score


def sparse_match(
    query_feat: Float[Tensor, "b d hq wq"],
    key_feat: Float[Tensor, "b d hk wk"],
    query_mask: Bool[Tensor, "b 1 hq wq"] | None,
    key_mask: Bool[Tensor, "b 1 hk wk"] | None,
    progress: Progress | None = None,
) -> Match:
    """Only kept queries meet kept keys; the others have confidence 0 (section 3.2, inference).

    Patches are cut from the features a strip of cells at a time, so what is held is those of the
    kept keys. None keeps everything.

    Args:
        progress: told the share of the queries that were answered.
    """
    num, _, rows, cols = query_feat.shape
    key_index = query_feat.new_zeros(num, rows * cols, dtype=torch.long)
    confidence = query_feat.new_zeros(num, rows * cols)
    for i in range(num):
        keys, answering = _gather_patches(key_feat[i], _mask_of(key_mask, i))
        if not len(answering):
            continue
        for query, asking in _kept_patches(query_feat[i], _mask_of(query_mask, i)):
            found, score = best_key(query, keys)
            key_index[i, asking] = answering[found]
            confidence[i, asking] = score
            if progress is not None:
                progress((i + (int(asking[-1]) + 1) / (rows * cols)) / num)
    return Match(key_index, confidence)


def _kept_patches(
    features: Float[Tensor, "d h w"], mask: Bool[Tensor, "cells"] | None
) -> Iterator[tuple[Float[Tensor, "kept _"], Int[Tensor, "kept"]]]:
    """Patches of the kept cells and their flat indices, a strip of rows at a time."""
    _, rows, cols = features.shape
    strip_rows = max(1, STRIP // cols)
    for start in range(0, rows, strip_rows):
        stop = min(start + strip_rows, rows)
        cells = torch.arange(start * cols, stop * cols, device=features.device)
        if mask is None:
            yield patch_rows(features, start, stop), cells
        elif (kept := mask[start * cols : stop * cols]).any():
            yield patch_rows(features, start, stop)[kept], cells[kept]


def _gather_patches(
    features: Float[Tensor, "d h w"], mask: Bool[Tensor, "cells"] | None
) -> tuple[Float[Tensor, "kept _"], Int[Tensor, "kept"]]:
    """All kept patches at once."""
    num = features[0].numel() if mask is None else int(mask.sum())
    patches, cells = features.new_empty(num, 9 * len(features)), []
    done = 0
    for part, part_cells in _kept_patches(features, mask):
        patches[done : done + len(part)] = part
        done += len(part)
        cells.append(part_cells)
    return patches, torch.cat(cells) if cells else patches.new_zeros(0, dtype=torch.long)


def _mask_of(mask: Tensor | None, i: int) -> Bool[Tensor, "cells"] | None:
    return None if mask is None else mask[i].flatten()


class SoftAssignment(torch.autograd.Function):
    """Eq. 3: forward is the gather that was made, backward also follows the softmax.

    With M = onehot + softmax − detach(softmax), the forward value of Eqs. 4 and 5 is a plain
    gather, whose own gradients autograd already has. What it lacks is the path through the
    softmax: dM_ij = ⟨P_i, dW_j⟩ + dC_j S_ij. That is added here, a block of queries at a time, so
    the matrix of all scores is never held.

    Inputs: warped feature and confidence (returned as they are), unit patches of query and key,
    and, as constants, the feature that was moved, the query mask and the softmax's temperature.
    """

    @staticmethod
    def forward(
        ctx: Any,
        warped_feat: Float[Tensor, "b c h w"],
        confidence: Float[Tensor, "b q"],
        query: Float[Tensor, "b q d"],
        key: Float[Tensor, "b k d"],
        aligned_feat: Float[Tensor, "b c hr wr"],
        mask: Float[Tensor, "b 1 hq wq"],
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(query, key, aligned_feat, mask)
        ctx.temperature = temperature
        return warped_feat.view_as(warped_feat), confidence.view_as(confidence)

    @staticmethod
    @once_differentiable  # whose type hides the parameters' names
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Any, ...]:
        grad_warped, grad_confidence = grad_outputs
        query, key, aligned_feat, mask = ctx.saved_tensors
        grad_query, grad_key = torch.empty_like(query), torch.empty_like(key)
        for i in range(len(query)):
            moved = patches_of_source(aligned_feat[i : i + 1])[0]
            asked = patches_of_fold(grad_warped[i : i + 1].to(moved.dtype))[0] * mask[i].flatten()
            grad_query[i], grad_key[i] = _softmax_path(
                query[i], key[i], asked.to(moved.dtype), moved, grad_confidence[i], ctx.temperature
            )
        return grad_warped, grad_confidence, grad_query, grad_key, None, None, None


def _softmax_path(
    query: Float[Tensor, "q d"],
    key: Float[Tensor, "k d"],
    asked: Float[Tensor, "v q"],
    moved: Float[Tensor, "v k"],
    grad_confidence: Float[Tensor, "q"],
    temperature: float,
) -> tuple[Float[Tensor, "q d"], Float[Tensor, "k d"]]:
    """Gradients of query and key patches through Eq. 3's softmax, for one sample."""
    grad_query, grad_key = [], torch.zeros_like(key)
    for block in torch.arange(len(query), device=query.device).split(QUERY_BLOCK):
        score = query[block] @ key.T
        prob = torch.softmax(score / temperature, dim=1)
        grad_choice = (asked[:, block].T @ moved).to(score.dtype)
        grad_choice.addcmul_(grad_confidence[block, None], score)
        grad_choice -= (prob * grad_choice).sum(dim=1, keepdim=True)
        grad_score = prob.mul_(grad_choice).div_(temperature)
        grad_query.append(grad_score @ key)
        grad_key.addmm_(grad_score.T, query[block])
    return torch.cat(grad_query), grad_key


def _rows(key: Float[Tensor, "b k d"], index: Int[Tensor, "b q"]) -> Float[Tensor, "b q d"]:
    return key.gather(1, index.unsqueeze(-1).expand(-1, -1, key.shape[-1]))


def _as_map(flat: Float[Tensor, "b q"], like: Tensor) -> Float[Tensor, "b 1 hq wq"]:
    return rearrange(flat, "b (y x) -> b 1 y x", y=like.shape[2])
