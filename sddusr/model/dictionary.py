"""Token dictionary learning (section 3.3, Eqs. 6 to 11)."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from sddusr.config import DictionaryConfig
from sddusr.model.refinement import (
    RefinedDictionary,
    Running,
    exact_pixels,
    in_full,
    pixels_of,
    split_pixels,
)

COSINE_SCALE = 10.0
"""Start of the learned sharpness of cosine attention."""


class TokenDictionary(RefinedDictionary):
    """The dictionaries as the paper prints them, one head on features as they are."""

    def __init__(self, dim: int, config: DictionaryConfig) -> None:
        super().__init__()
        self.attention = config.attention
        self.start_tokens(dim, config)
        self.keep_logit = nn.Parameter(torch.full((), config.keep_logit))
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

    def values_read(
        self, running: Running
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n c"]]:
        center = self.update_center_value(running.center / running.weight)
        return center, self.update_ref_value(running.aligned / running.weight)

    def update_weights(self, center_feat: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 n h*w"]:
        """A_up of Eq. 6: what each token reads of the centre; rows add up to 1."""
        with in_full(center_feat):
            key = self.update_keys(exact_pixels(center_feat))
            return (self.update_query_of_tokens() @ key.mT).softmax(-1).unsqueeze(1)

    def lookup_weights(
        self, lr_feat: Float[Tensor, "b c h w"], center_tokens: Float[Tensor, "b n c"]
    ) -> Float[Tensor, "b 1 h*w n"]:
        """A_L of Eq. 10: what each pixel reads of the tokens; rows add up to 1."""
        with in_full(lr_feat):
            query = self._scaled_query(self.lookup_query(exact_pixels(lr_feat)))
            key = self._scaled_key(self.lookup_key(center_tokens))
            return (query @ key.mT).softmax(-1).unsqueeze(1)

    def update_query_of_tokens(self) -> Float[Tensor, "n c"]:
        """Of Eq. 6. Without a norm in between, the key's projection is that of the query."""
        with in_full(self.center_tokens):
            query = self._scaled_query(self.update_query(self.center_tokens))
            return query if self.attention == "cosine" else query @ self.update_key.weight

    def update_keys(self, center: Float[Tensor, "b p c"]) -> Float[Tensor, "b p c"]:
        """Pixels as they are, where the query was projected for them."""
        if self.attention == "cosine":
            return self._scaled_key(self.update_key(center))
        return center

    def look_up(
        self,
        lr_feat: Float[Tensor, "b c h w"],
        center_tokens: Float[Tensor, "b n c"],
        ref_tokens: Float[Tensor, "b n c"],
    ) -> Float[Tensor, "b c h w"]:
        pixels, value = pixels_of(lr_feat), self.lookup_value(ref_tokens)
        if torch.is_grad_enabled() or self.attention == "cosine":
            found = self.attend(self.lookup_query(pixels), self.lookup_key(center_tokens), value)
        else:
            found = _attention(pixels, *self._key_of_pixels(center_tokens), value)
        return rearrange(found, "b (h w) c -> b c h w", h=lr_feat.shape[2])

    def _key_of_pixels(
        self, center_tokens: Float[Tensor, "b n c"]
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n"]]:
        """Keys for pixels that were not projected, and what is added to the logits.

        (W x + a)·k = x·(Wᵀ k) + a·k: a product a token takes the place of one a pixel. With
        gradients it would be slower, since that of the second term has no fast way.
        """
        with in_full(center_tokens):
            key = self._scaled_query(self.lookup_key(center_tokens))
            return key @ self.lookup_query.weight, key @ self.lookup_query.bias

    def token_of_pixels(
        self, lr_feat: Float[Tensor, "b c h w"], center_tokens: Float[Tensor, "b n c"]
    ) -> Int[Tensor, "b h w"]:
        """The token that each pixel of the LR picture reads most of: the largest weight in Eq. 10.

        The paper's Figure 7 takes Eq. 6's, which tells about the centre alone.
        """
        query = self._scaled_query(self.lookup_query(pixels_of(lr_feat)))
        key = self._scaled_key(self.lookup_key(center_tokens))
        index = [(piece @ key.mT).argmax(dim=2) for piece in split_pixels(query)]
        return rearrange(torch.cat(index, dim=1), "b (h w) -> b h w", h=lr_feat.shape[2])

    def attend(
        self,
        query: Float[Tensor, "b rows c"],
        key: Float[Tensor, "b cols c"],
        value: Float[Tensor, "b cols c"],
    ) -> Float[Tensor, "b rows c"]:
        """Softmax attention over the columns, streamed: the score matrix is not kept."""
        query = self._scaled_query(query.to(value.dtype))
        return _attention(query, self._scaled_key(key), None, value)

    def _scaled_query(self, query: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        """Its product with a scaled key is the logits."""
        if self.attention == "cosine":
            return F.normalize(query, dim=-1) * self.sharpness.exp().to(query.dtype)
        return query * query.shape[-1] ** -0.5 if self.attention == "sqrt_d" else query

    def _scaled_key(self, key: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        return F.normalize(key, dim=-1) if self.attention == "cosine" else key


def _attention(
    query: Float[Tensor, "b rows c"],
    key: Float[Tensor, "b cols c"],
    bias: Float[Tensor, "b cols"] | None,
    value: Float[Tensor, "b cols c"],
) -> Float[Tensor, "b rows c"]:
    """Softmax of query · key + bias over the columns, times the values, in their precision."""
    query, key = query.to(value.dtype), key.to(value.dtype)
    if bias is not None:
        bias = bias.to(value.dtype)[:, None, None]
    query, key, value = (x.unsqueeze(1) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, bias, scale=1.0).squeeze(1)
