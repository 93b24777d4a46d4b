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
from sddusr.model.tuning import tuning
from sddusr.model.written_tokens import Tokens

COSINE_SCALE = 10.0
"""Start of the learned sharpness of cosine attention."""


class Running(NamedTuple):
    """Attention over the pixels seen so far, of one head."""

    peak: Float[Tensor, "b n 1"]
    """Largest logit."""
    weight: Float[Tensor, "b n 1"]
    """Σ exp(logit − peak)."""
    center: Float[Tensor, "b n c"]
    """Σ exp(logit − peak) · centre pixel."""
    aligned: Float[Tensor, "b n c"]
    """The same for the aligned Ref pixels."""


class TokenDictionary(Tokens):
    """Two dictionaries that look the same thing up: as the wide and as the tele lens sees it.

    The tokens are priors learned over the data set. For each sample they are refined (`refine`,
    Eqs. 6 to 9) and, in use, never written back: a result depends on no earlier picture.
    """

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
        return self.refine_in_pieces([(center_feat, aligned_feat)])

    def refine_in_pieces(
        self,
        pieces: Iterable[tuple[Float[Tensor, "b c _ _"], Float[Tensor, "b c _ _"]]],
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n c"]]:
        """`refine` for a centre that arrives as pairs of (center_feat, aligned_feat) pieces.

        A softmax over all pixels needs some of them at a time: what was summed so far is rescaled
        whenever a larger logit turns up (online softmax).

        Values are linear in the pixels and a token's weights add up to one, so pixels are summed as
        they are and projected afterwards, once a token. Without a norm in between, the same holds
        for the key.
        """
        query, running = self.update_query_of_tokens(), None
        for piece in pieces:
            running = self.add_piece(query, running, *piece)
        if running is None:
            raise ValueError("no piece of the centre, need one or more")
        return self.refined(running)

    def add_piece(
        self,
        query: Float[Tensor, "n c"],
        running: Running | None,
        center_feat: Float[Tensor, "b c h w"],
        aligned_feat: Float[Tensor, "b c h w"],
    ) -> Running | None:
        """The attention with one more piece of the centre in it.

        Args:
            query: from `update_query_of_tokens`.
        """
        with in_full(center_feat):
            center, aligned = _exact_pixels(center_feat), _exact_pixels(aligned_feat)
            for here in zip(split_pixels(center), split_pixels(aligned), strict=True):
                running = _added(running, query @ self._update_key(here[0]).mT, *here)
        return running

    def refined(self, running: Running) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n c"]]:
        """Both dictionaries, from the attention over all pixels (Eqs. 8 and 9)."""
        with in_full(running.center):
            center = self.update_center_value(running.center / running.weight)
            aligned = self.update_ref_value(running.aligned / running.weight)
            keep = self.keep_rate
            refined = (
                keep * self.center_tokens + (1 - keep) * center,
                keep * self.ref_tokens + (1 - keep) * aligned,
            )
        self.note(*refined)
        return refined

    def update_weights(self, center_feat: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 n h*w"]:
        """A_up of Eq. 6: what each token reads of the centre; rows add up to 1."""
        with in_full(center_feat):
            key = self._update_key(_exact_pixels(center_feat))
            return (self.update_query_of_tokens() @ key.mT).softmax(-1).unsqueeze(1)

    def lookup_weights(
        self, lr_feat: Float[Tensor, "b c h w"], center_tokens: Float[Tensor, "b n c"]
    ) -> Float[Tensor, "b 1 h*w n"]:
        """A_L of Eq. 10: what each pixel reads of the tokens; rows add up to 1."""
        with in_full(lr_feat):
            query = self._scaled_query(self.lookup_query(_exact_pixels(lr_feat)))
            key = self._scaled_key(self.lookup_key(center_tokens))
            return (query @ key.mT).softmax(-1).unsqueeze(1)

    def update_query_of_tokens(self) -> Float[Tensor, "n c"]:
        """Of Eq. 6, to be multiplied with `_update_key`."""
        with in_full(self.center_tokens):
            query = self._scaled_query(self.update_query(self.center_tokens))
            return query if self.attention == "cosine" else query @ self.update_key.weight

    def _update_key(self, center: Float[Tensor, "b p c"]) -> Float[Tensor, "b p c"]:
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
        """Each LR pixel reads the Ref dictionary where it resembles the centre's (Eqs. 10, 11)."""
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


def _added(
    running: Running | None,
    logits: Float[Tensor, "b n p"],
    center: Float[Tensor, "b p c"],
    aligned: Float[Tensor, "b p c"],
) -> Running:
    # Whatever is subtracted cancels, and has no gradient.
    peak = logits.detach().amax(dim=2, keepdim=True)
    if running is not None:
        peak = torch.maximum(peak, running.peak)
    share = (logits - peak).exp_()
    sums = share.sum(dim=2, keepdim=True), share @ center, share @ aligned
    if running is None:
        return Running(peak, *sums)
    fade = (running.peak - peak).exp()
    return Running(peak, *(fade * old + new for old, new in zip(running[1:], sums, strict=True)))


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


def pixels_of(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h*w c"]:
    return rearrange(features, "b c h w -> b (h w) c")


def in_full(like: Tensor) -> torch.autocast:
    """Without autocast: logits that an exponential is taken of."""
    return torch.autocast(like.device.type, enabled=False)


def split_pixels(pixels: Float[Tensor, "b p c"]) -> tuple[Tensor, ...]:
    """Pieces whose logits are made at once; an exported graph takes one of any size."""
    if torch.compiler.is_exporting():
        return (pixels,)
    return pixels.split(tuning(pixels.device).dictionary_px, 1)


def _exact_pixels(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h*w c"]:
    """In float32 or better."""
    return pixels_of(features).to(torch.promote_types(features.dtype, torch.float32))
