"""Token dictionaries behind norms: the paper's equations with features and tokens of one size.

As printed (`TokenDictionary`), features of rms 0.1 meet tokens of norm 5: the logits span ±1, so
every pixel reads nearly all tokens alike and one constant vector does as well. Here features
pass LayerNorm first, queries and keys have unit length, a learned sharpness scales their
product, and several heads look things up side by side.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from sddusr.config import DictionaryConfig
from sddusr.model.dictionary import TokenDictionary
from sddusr.model.refinement import RefinedDictionary, Running, in_full, pixels_of
from sddusr.model.tuning import tuning

SHARPNESS = 5.0
"""Start of the learned scale of a product of unit vectors, of each head."""


class NormedDictionary(RefinedDictionary):
    """Eqs. 6 to 11 on normalised features, with several heads."""

    def __init__(self, dim: int, config: DictionaryConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.start_tokens(dim, config)
        self.keep_logit = nn.Parameter(torch.full((), config.keep_logit))
        self.lr_norm, self.center_norm, self.aligned_norm, self.token_norm = (
            nn.LayerNorm(dim) for _ in range(4)
        )
        scale = torch.full((config.num_heads, 1, 1), math.log(SHARPNESS))
        self.update_sharpness = nn.Parameter(scale.clone())
        self.lookup_sharpness = nn.Parameter(scale.clone())
        self.update_query, self.update_key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.update_center_value = nn.Linear(dim, dim)
        self.update_ref_value = nn.Linear(dim, dim)
        self.lookup_query, self.lookup_key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.lookup_value = nn.Linear(dim, dim)

    def update_query_of_tokens(self) -> Float[Tensor, "1 heads n d"]:
        with in_full(self.center_tokens):
            query = self._heads(self.update_query(self.token_norm(self.center_tokens))[None])
            return F.normalize(query, dim=-1) * self.update_sharpness.exp()

    def center_pixels(self, center_feat: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h*w c"]:
        return self.center_norm(pixels_of(center_feat).float())

    def aligned_pixels(self, aligned_feat: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h*w c"]:
        return self.aligned_norm(pixels_of(aligned_feat).float())

    def update_keys(self, center: Float[Tensor, "b p c"]) -> Float[Tensor, "b heads p d"]:
        return F.normalize(self._heads(self.update_key(center)), dim=-1)

    def values_read(
        self, running: Running
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n c"]]:
        center = self._values(self.update_center_value, running.center / running.weight)
        return center, self._values(self.update_ref_value, running.aligned / running.weight)

    def look_up(
        self,
        lr_feat: Float[Tensor, "b c h w"],
        center_tokens: Float[Tensor, "b n c"],
        ref_tokens: Float[Tensor, "b n c"],
    ) -> Float[Tensor, "b c h w"]:
        with in_full(lr_feat):
            query, key = self._lookup_sides(lr_feat, center_tokens)
            value = self._heads(self.lookup_value(ref_tokens))
            found = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return rearrange(found, "b k (y x) d -> b (k d) y x", y=lr_feat.shape[2])

    def token_of_pixels(
        self, lr_feat: Float[Tensor, "b c h w"], center_tokens: Float[Tensor, "b n c"]
    ) -> Int[Tensor, "b h w"]:
        """The token that each pixel reads most of, over all heads."""
        query, key = self._lookup_sides(lr_feat, center_tokens)
        at_once = tuning(query.device).dictionary_px
        index = [
            (part @ key.mT).softmax(-1).sum(1).argmax(-1) for part in query.split(at_once, dim=2)
        ]
        return rearrange(torch.cat(index, 1), "b (y x) -> b y x", y=lr_feat.shape[2])

    def update_weights(
        self, center_feat: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b heads n h*w"]:
        """A_up of Eq. 6: what each token reads of the centre; rows add up to 1."""
        with in_full(center_feat):
            key = self.update_keys(self.center_pixels(center_feat))
            return (self.update_query_of_tokens() @ key.mT).softmax(-1)

    def lookup_weights(
        self, lr_feat: Float[Tensor, "b c h w"], center_tokens: Float[Tensor, "b n c"]
    ) -> Float[Tensor, "b heads h*w n"]:
        """A_L of Eq. 10: what each pixel reads of the tokens; rows add up to 1."""
        with in_full(lr_feat):
            query, key = self._lookup_sides(lr_feat, center_tokens)
            return (query @ key.mT).softmax(-1)

    def _lookup_sides(
        self, lr_feat: Tensor, center_tokens: Tensor
    ) -> tuple[Float[Tensor, "b heads p d"], Float[Tensor, "b heads n d"]]:
        pixels = self.lr_norm(pixels_of(lr_feat).float())
        query = F.normalize(self._heads(self.lookup_query(pixels)), dim=-1)
        key = F.normalize(self._heads(self.lookup_key(self.token_norm(center_tokens))), dim=-1)
        return query * self.lookup_sharpness.exp(), key

    def _heads(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b heads n d"]:
        return rearrange(x, "b n (k d) -> b k n d", k=self.num_heads)

    def _values(
        self, project: nn.Linear, pixels: Float[Tensor, "b heads n c"]
    ) -> Float[Tensor, "b n c"]:
        """Each head's own part of the projection of what it read."""
        projected = rearrange(project(pixels), "b k n (l d) -> b n d k l", k=self.num_heads,
                              l=self.num_heads)  # fmt: skip
        return rearrange(projected.diagonal(dim1=3, dim2=4), "b n d k -> b n (k d)")


class ConstantFeature(nn.Module):
    """One learned vector in F^Dict's place: what a wider fusion is worth without any token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(1, dim, 1, 1))

    def forward(
        self,
        lr_feat: Float[Tensor, "b c h w"],
        center_feat: Float[Tensor, "b c hr wr"],
        aligned_feat: Float[Tensor, "b c hr wr"],
    ) -> Float[Tensor, "b c h w"]:
        return self.vector.to(lr_feat.dtype).expand_as(lr_feat)

    def refine_in_pieces(
        self, pieces: Iterable[tuple[Tensor, Tensor]]
    ) -> tuple[Float[Tensor, "1 1 c"], Float[Tensor, "1 1 c"]]:
        """The vector as the only token; the pieces are read, since they are made on the way."""
        for _ in pieces:
            pass
        token = self.vector.flatten(1).unsqueeze(1)
        return token, token

    def look_up(
        self, lr_feat: Float[Tensor, "b c h w"], center_tokens: Tensor, ref_tokens: Tensor
    ) -> Float[Tensor, "b c h w"]:
        return self.vector.to(lr_feat.dtype).expand_as(lr_feat)

    def token_of_pixels(
        self, lr_feat: Float[Tensor, "b c h w"], center_tokens: Tensor
    ) -> Int[Tensor, "b h w"]:
        return lr_feat.new_zeros(len(lr_feat), *lr_feat.shape[2:], dtype=torch.long)


Dictionary = TokenDictionary | NormedDictionary | ConstantFeature


def make_dictionary(dim: int, config: DictionaryConfig) -> Dictionary:
    """The dictionary that a config names."""
    if config.constant:
        return ConstantFeature(dim)
    return NormedDictionary(dim, config) if config.norm else TokenDictionary(dim, config)
