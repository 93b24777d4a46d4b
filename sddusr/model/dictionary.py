"""Token dictionary learning (section 3.3, Eqs. 6 to 11)."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from sddusr.config import DictionaryConfig

COSINE_SCALE = 10.0
"""Start of the learned sharpness of cosine attention."""

PIECE = 2**16
"""Pixels whose logits are held at once while a large centre is refined."""


class _Running(NamedTuple):
    """Attention over the columns seen so far."""

    peak: Float[Tensor, "b n 1"]
    """Largest logit."""
    weight: Float[Tensor, "b n 1"]
    """Σ exp(logit − peak)."""
    weighted: Float[Tensor, "b n cv"]
    """Σ exp(logit − peak) · value."""


class TokenDictionary(nn.Module):
    """Two dictionaries that look the same thing up: as the wide and as the tele lens sees it.

    The parameters are priors learned over the data set. For each sample they are refined
    (`refine`, Eqs. 6 to 9) and never written back, so that a result depends on no earlier picture.
    """

    def __init__(self, dim: int, config: DictionaryConfig) -> None:
        super().__init__()
        self.attention = config.attention
        self.center_tokens = nn.Parameter(torch.randn(config.num_tokens, dim))
        self.ref_tokens = nn.Parameter(torch.randn(config.num_tokens, dim))
        self.keep_logit = nn.Parameter(torch.zeros(()))
        if config.attention == "cosine":
            self.sharpness = nn.Parameter(torch.tensor(math.log(COSINE_SCALE)))
        # A bias of the keys, or one that all centre tokens share, cancels in the softmax.
        self.update_query = nn.Linear(dim, dim)
        self.update_key = nn.Linear(dim, dim, bias=False)
        self.update_center_value = nn.Linear(dim, dim, bias=False)
        self.update_ref_value = nn.Linear(dim, dim)
        self.lookup_query = nn.Linear(dim, dim)
        self.lookup_key = nn.Linear(dim, dim, bias=False)
        self.lookup_value = nn.Linear(dim, dim)

    @property
    def keep_rate(self) -> Tensor:
        """s of Eqs. 8 and 9, between 0 and 1."""
        return torch.sigmoid(self.keep_logit)

    def forward(
        self,
        lr_feat: Float[Tensor, "b c h w"],
        center_feat: Float[Tensor, "b c hr wr"],
        aligned_feat: Float[Tensor, "b c hr wr"],
    ) -> Float[Tensor, "b c h w"]:
        """F^Dict: what the refined dictionaries know about each pixel of the LR picture."""
        return self.look_up(lr_feat, *self.refine(center_feat, aligned_feat))

    def refine(
        self, center_feat: Float[Tensor, "b c hr wr"], aligned_feat: Float[Tensor, "b c hr wr"]
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n c"]]:
        """Both dictionaries with this picture's centre written into them (Eqs. 6 to 9)."""
        query, key, values = self._update_inputs(center_feat, aligned_feat)
        return self._refined(self.attend(query, key, values))

    def refine_in_pieces(
        self,
        pieces: Iterable[tuple[Float[Tensor, "b c _ _"], Float[Tensor, "b c _ _"]]],
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n c"]]:
        """`refine` for a centre that arrives as pairs of (center_feat, aligned_feat) pieces.

        A softmax over all pieces needs one piece at a time: what was summed so far is rescaled
        whenever a larger logit turns up (online softmax).
        """
        running = None
        for center_feat, aligned_feat in pieces:
            query, key, values = self._update_inputs(center_feat, aligned_feat)
            running = _add_columns(running, *self._scaled(query, key), values)
        if running is None:
            raise ValueError("no piece of the centre, need one or more")
        return self._refined(running.weighted / running.weight)

    def _update_inputs(
        self, center_feat: Float[Tensor, "b c h w"], aligned_feat: Float[Tensor, "b c h w"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and the two dictionaries' values of Eqs. 6 to 9."""
        center, aligned = _pixels(center_feat), _pixels(aligned_feat)
        query = self.update_query(self.center_tokens).expand(len(center), -1, -1)
        values = [self.update_center_value(center), self.update_ref_value(aligned)]
        return query, self.update_key(center), torch.cat(values, dim=-1)

    def _refined(self, update: Float[Tensor, "b n both"]) -> tuple[Tensor, Tensor]:
        center_update, ref_update = update.chunk(2, dim=-1)
        keep = self.keep_rate
        return (
            keep * self.center_tokens + (1 - keep) * center_update,
            keep * self.ref_tokens + (1 - keep) * ref_update,
        )

    def look_up(
        self,
        lr_feat: Float[Tensor, "b c h w"],
        center_tokens: Float[Tensor, "b n c"],
        ref_tokens: Float[Tensor, "b n c"],
    ) -> Float[Tensor, "b c h w"]:
        """Each LR pixel reads the Ref dictionary where it resembles the centre's (Eqs. 10, 11)."""
        found = self.attend(
            self.lookup_query(_pixels(lr_feat)),
            self.lookup_key(center_tokens),
            self.lookup_value(ref_tokens),
        )
        return rearrange(found, "b (h w) c -> b c h w", h=lr_feat.shape[2])

    def token_of_pixels(
        self, lr_feat: Float[Tensor, "b c h w"], center_tokens: Float[Tensor, "b n c"]
    ) -> Int[Tensor, "b h w"]:
        """The token that each pixel of the LR picture reads most of: the largest weight in Eq. 10.

        The paper's Figure 7 takes Eq. 6's, which tells about the centre alone.
        """
        query, key = self._scaled(
            self.lookup_query(_pixels(lr_feat)), self.lookup_key(center_tokens)
        )
        index = [(piece @ key.transpose(1, 2)).argmax(dim=2) for piece in query.split(PIECE, 1)]
        return rearrange(torch.cat(index, dim=1), "b (h w) -> b h w", h=lr_feat.shape[2])

    def attend(
        self,
        query: Float[Tensor, "b rows c"],
        key: Float[Tensor, "b cols c"],
        value: Float[Tensor, "b cols cv"],
    ) -> Float[Tensor, "b rows cv"]:
        """Softmax attention over the columns, streamed: the score matrix is not kept."""
        query, key = self._scaled(query.to(value.dtype), key.to(value.dtype))
        # The streaming kernel wants one width for all three; zeros change no logit.
        wider = (0, value.shape[-1] - query.shape[-1])
        query, key = F.pad(query, wider).unsqueeze(1), F.pad(key, wider).unsqueeze(1)
        found = F.scaled_dot_product_attention(query, key, value.unsqueeze(1), scale=1.0)
        return found.squeeze(1)

    def _scaled(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Query and key whose product is the logits."""
        if self.attention == "cosine":
            sharp = F.normalize(query, dim=-1) * self.sharpness.exp().to(query.dtype)
            return sharp, F.normalize(key, dim=-1)
        return (query * query.shape[-1] ** -0.5 if self.attention == "sqrt_d" else query), key


def _add_columns(running: _Running | None, query: Tensor, key: Tensor, value: Tensor) -> _Running:
    exact = torch.promote_types(value.dtype, torch.float32)
    for keys, values in zip(key.split(PIECE, 1), value.split(PIECE, 1), strict=True):
        logits = query.to(exact) @ keys.to(exact).transpose(1, 2)
        peak = logits.amax(dim=2, keepdim=True)
        if running is not None:
            peak = torch.maximum(peak, running.peak)
        share = (logits - peak).exp_()
        weight, weighted = share.sum(dim=2, keepdim=True), share @ values.to(exact)
        if running is not None:
            fade = (running.peak - peak).exp()
            weight, weighted = weight + fade * running.weight, weighted + fade * running.weighted
        running = _Running(peak, weight, weighted)
    assert running is not None
    return running


def _pixels(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h*w c"]:
    return rearrange(features, "b c h w -> b (h w) c")
