"""Token dictionaries behind norms: the paper's equations with features and tokens of one size.

As printed (`TokenDictionary`), features of rms 0.1 meet tokens of norm 5: the logits span ±1, so
every pixel reads nearly all tokens alike and one constant vector does as well. Here features
pass LayerNorm first, queries and keys have unit length, a learned sharpness scales their
product, and several heads look things up side by side.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from sddusr.config import DictionaryConfig
from sddusr.model.dictionary import (
    TokenDictionary,
    in_full,
    pixels_of,
    split_pixels,
)
from sddusr.model.tuning import tuning
from sddusr.model.written_tokens import Tokens

SHARPNESS = 5.0
"""Start of the learned scale of a product of unit vectors, of each head."""


class HeadsRunning(NamedTuple):
    """Attention of each head over the pixels seen so far."""

    peak: Float[Tensor, "b heads n 1"]
    weight: Float[Tensor, "b heads n 1"]
    center: Float[Tensor, "b heads n c"]
    aligned: Float[Tensor, "b heads n c"]


class NormedDictionary(Tokens):
    """Eqs. 6 to 11 on normalised features, with several heads.

    Refined for each picture and never written back, like `TokenDictionary`.
    """

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
        tokens = self.refine_in_pieces([(center_feat, aligned_feat)])
        return self.look_up(lr_feat, *tokens)

    def refine_in_pieces(
        self,
        pieces: Iterable[tuple[Float[Tensor, "b c _ _"], Float[Tensor, "b c _ _"]]],
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n c"]]:
        """Both dictionaries with this picture's centre written into them (Eqs. 6 to 9).

        A centre may arrive in pieces: sums are rescaled when a larger logit turns up.
        """
        query, running = self.update_query_of_tokens(), None
        for piece in pieces:
            running = self.add_piece(query, running, *piece)
        if running is None:
            raise ValueError("no piece of the centre, need one or more")
        return self.refined(running)

    def update_query_of_tokens(self) -> Float[Tensor, "1 heads n d"]:
        """Of Eq. 6."""
        with in_full(self.center_tokens):
            query = self._heads(self.update_query(self.token_norm(self.center_tokens))[None])
            return F.normalize(query, dim=-1) * self.update_sharpness.exp()

    def add_piece(
        self,
        query: Float[Tensor, "1 heads n d"],
        running: HeadsRunning | None,
        center_feat: Float[Tensor, "b c h w"],
        aligned_feat: Float[Tensor, "b c h w"],
    ) -> HeadsRunning | None:
        """The attention with one more piece of the centre in it.

        Args:
            query: from `update_query_of_tokens`.
        """
        with in_full(center_feat):
            center = self.center_norm(pixels_of(center_feat).float())
            aligned = self.aligned_norm(pixels_of(aligned_feat).float())
            for here in zip(split_pixels(center), split_pixels(aligned), strict=True):
                running = _added(running, query @ self._update_key(here[0]).mT, *here)
        return running

    def refined(
        self, running: HeadsRunning
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n c"]]:
        """Both dictionaries, from the attention over all pixels (Eqs. 8 and 9)."""
        with in_full(running.center):
            keep = self.keep_rate
            center = self._values(self.update_center_value, running.center / running.weight)
            aligned = self._values(self.update_ref_value, running.aligned / running.weight)
            refined = (
                keep * self.center_tokens + (1 - keep) * center,
                keep * self.ref_tokens + (1 - keep) * aligned,
            )
        self.note(*refined)
        return refined

    def look_up(
        self,
        lr_feat: Float[Tensor, "b c h w"],
        center_tokens: Float[Tensor, "b n c"],
        ref_tokens: Float[Tensor, "b n c"],
    ) -> Float[Tensor, "b c h w"]:
        """Each LR pixel reads the Ref dictionary where it resembles the centre's (Eqs. 10, 11)."""
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
            key = self._update_key(self.center_norm(pixels_of(center_feat).float()))
            return (self.update_query_of_tokens() @ key.mT).softmax(-1)

    def lookup_weights(
        self, lr_feat: Float[Tensor, "b c h w"], center_tokens: Float[Tensor, "b n c"]
    ) -> Float[Tensor, "b heads h*w n"]:
        """A_L of Eq. 10: what each pixel reads of the tokens; rows add up to 1."""
        with in_full(lr_feat):
            query, key = self._lookup_sides(lr_feat, center_tokens)
            return (query @ key.mT).softmax(-1)

    def _update_key(self, center: Float[Tensor, "b p c"]) -> Float[Tensor, "b heads p d"]:
        return F.normalize(self._heads(self.update_key(center)), dim=-1)

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


def _added(
    running: HeadsRunning | None,
    logits: Float[Tensor, "b heads n p"],
    center: Float[Tensor, "b p c"],
    aligned: Float[Tensor, "b p c"],
) -> HeadsRunning:
    peak = logits.detach().amax(dim=3, keepdim=True)  # whatever is subtracted cancels
    if running is not None:
        peak = torch.maximum(peak, running.peak)
    share = (logits - peak).exp()
    sums = (
        share.sum(dim=3, keepdim=True),
        share @ center.unsqueeze(1),
        share @ aligned.unsqueeze(1),
    )
    if running is None:
        return HeadsRunning(peak, *sums)
    fade = (running.peak - peak).exp()
    return HeadsRunning(
        peak, *(fade * old + new for old, new in zip(running[1:], sums, strict=True))
    )
