"""Eq. 3's straight-through assignment: forward one key, backward also the softmax over all."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from sddusr.model.matching.transfer import windows_of_fold, windows_of_source
from sddusr.model.tuning import tuning


class SoftAssignment(torch.autograd.Function):
    """Eq. 3: forward is the gather that was made, backward also follows the softmax.

    With M = onehot + softmax − detach(softmax), the forward value of Eqs. 4 and 5 is a plain
    gather, whose own gradients autograd already has. What it lacks is the path through the
    softmax: dM_ij = ⟨P_i, dW_j⟩ + dC_j S_ij. That is added here, a block of queries at a time, so
    the matrix of all scores is never held.

    Inputs: warped feature and confidence (returned as they are), unit patches of query and key,
    and, as constants, the feature that was moved, the query mask (0 or 1) and the softmax's
    temperature. In the format of that feature the largest product of backward is made.

    Both the patch and the confidence of a masked query are weighted by 0 further on, so nothing
    flows back through its softmax: it is left out here.
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
        if tuning(query.device).soft_batched:
            grads = _batched_softmax_path(
                query, key, grad_warped, aligned_feat, grad_confidence, mask, ctx.temperature
            )
            return grad_warped, grad_confidence, *grads, None, None, None
        grad_query, grad_key = torch.zeros_like(query), torch.empty_like(key)
        for i in range(len(query)):
            asking = mask[i].flatten().nonzero().squeeze(1)
            moved = windows_of_source(aligned_feat[i : i + 1])[0]
            grad_query[i, asking], grad_key[i] = _softmax_path(
                query[i, asking],
                key[i],
                windows_of_fold(grad_warped[i : i + 1], moved.dtype)[0],
                asking,
                moved.flatten(2).flatten(0, 1),
                grad_confidence[i, asking],
                ctx.temperature,
            )
        return grad_warped, grad_confidence, grad_query, grad_key, None, None, None


def _softmax_path(
    query: Float[Tensor, "q d"],
    key: Float[Tensor, "k d"],
    asked: Float[Tensor, "rows cols 9 _"],
    asking: Int[Tensor, "q"],
    moved: Float[Tensor, "k v"],
    grad_confidence: Float[Tensor, "q"],
    temperature: float,
) -> tuple[Float[Tensor, "q d"], Float[Tensor, "k d"]]:
    """Gradients of query and key patches through Eq. 3's softmax, for one sample.

    Args:
        asked: the gradients of all patches that were laid down.
        asking: which of them are these queries', flat.
    """
    grad_query, grad_key = torch.empty_like(query), torch.zeros_like(key)
    rows, cols = asking // asked.shape[1], asking % asked.shape[1]
    at_once = tuning(query.device).soft_queries
    for start in range(0, len(query), at_once):
        here = slice(start, start + at_once)
        score = query[here] @ key.T
        prob = torch.softmax(score / temperature, dim=1)
        grad_choice = (asked[rows[here], cols[here]].flatten(1) @ moved.T).to(score.dtype)
        grad_choice.addcmul_(grad_confidence[here, None], score)
        grad_choice -= (prob * grad_choice).sum(dim=1, keepdim=True)
        grad_score = prob.mul_(grad_choice).div_(temperature)
        grad_query[here] = grad_score @ key
        grad_key.addmm_(grad_score.T, query[here])
    return grad_query, grad_key


def _batched_softmax_path(
    query: Float[Tensor, "b q d"],
    key: Float[Tensor, "b k d"],
    grad_warped: Float[Tensor, "b c h w"],
    aligned_feat: Float[Tensor, "b c hr wr"],
    grad_confidence: Float[Tensor, "b q"],
    mask: Float[Tensor, "b 1 hq wq"],
    temperature: float,
) -> tuple[Float[Tensor, "b q d"], Float[Tensor, "b k d"]]:
    """The same for all queries of some samples at once; those of masked queries are zeros."""
    grad_query, grad_key = torch.empty_like(query), torch.empty_like(key)
    at_once = max(1, tuning(query.device).soft_queries // query.shape[1])
    for start in range(0, len(query), at_once):
        here = slice(start, start + at_once)
        moved = windows_of_source(aligned_feat[here]).flatten(3).flatten(1, 2)
        asked = windows_of_fold(grad_warped[here], moved.dtype).flatten(3).flatten(1, 2)
        score = query[here] @ key[here].mT
        prob = torch.softmax(score / temperature, dim=2)
        grad_choice = (asked @ moved.mT).to(score.dtype)
        grad_choice.addcmul_(grad_confidence[here, :, None], score)
        grad_choice -= (prob * grad_choice).sum(dim=2, keepdim=True)
        grad_score = prob.mul_(grad_choice).mul_(mask[here].flatten(1).unsqueeze(2) / temperature)
        torch.bmm(grad_score, key[here], out=grad_query[here])
        torch.bmm(grad_score.mT, query[here], out=grad_key[here])
    return grad_query, grad_key
