"""Token dictionaries that are refined for each picture (Eqs. 6 to 9)."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from sddusr.model.tuning import tuning
from sddusr.model.written_tokens import Tokens


class Running(NamedTuple):
    """Attention over the pixels seen so far, of one head or several."""

    peak: Float[Tensor, "b *heads n 1"]
    """Largest logit."""
    weight: Float[Tensor, "b *heads n 1"]
    """Σ exp(logit − peak)."""
    center: Float[Tensor, "b *heads n c"]
    """Σ exp(logit − peak) · centre pixel."""
    aligned: Float[Tensor, "b *heads n c"]
    """The same for the aligned Ref pixels."""


class RefinedDictionary(Tokens):
    """Two dictionaries that look the same thing up: as the wide and as the tele lens sees it.

    The tokens are priors learned over the data set. For each sample they are refined (`refine`,
    Eqs. 6 to 9) and, in use, never written back: a result depends on no earlier picture.
    """

    keep_logit: nn.Parameter

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
        they are and projected afterwards, once a token.
        """
        query, running = self.update_query_of_tokens(), None
        for piece in pieces:
            running = self.add_piece(query, running, *piece)
        if running is None:
            raise ValueError("no piece of the centre, need one or more")
        return self.refined(running)

    def add_piece(
        self,
        query: Float[Tensor, "*heads n d"],
        running: Running | None,
        center_feat: Float[Tensor, "b c h w"],
        aligned_feat: Float[Tensor, "b c h w"],
    ) -> Running | None:
        """The attention with one more piece of the centre in it.

        Args:
            query: from `update_query_of_tokens`.
        """
        with in_full(center_feat):
            pixels = self.center_pixels(center_feat), self.aligned_pixels(aligned_feat)
            for here in zip(*map(split_pixels, pixels), strict=True):
                running = _added(running, query @ self.update_keys(here[0]).mT, *here)
        return running

    def refined(self, running: Running) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n c"]]:
        """Both dictionaries, from the attention over all pixels (Eqs. 8 and 9)."""
        with in_full(running.center):
            center, aligned = self.values_read(running)
            keep = self.keep_rate
            refined = (
                keep * self.center_tokens + (1 - keep) * center,
                keep * self.ref_tokens + (1 - keep) * aligned,
            )
        self.note(*refined)
        return refined

    # What the two kinds do each in its own way.

    def update_query_of_tokens(self) -> Float[Tensor, "*heads n d"]:
        """Of Eq. 6, to be multiplied with `update_keys`."""
        raise NotImplementedError

    def center_pixels(self, center_feat: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h*w c"]:
        """What keys are made of and values are read from."""
        return exact_pixels(center_feat)

    def aligned_pixels(self, aligned_feat: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h*w c"]:
        """The same of the aligned Ref."""
        return exact_pixels(aligned_feat)

    def update_keys(self, center: Float[Tensor, "b p c"]) -> Float[Tensor, "b *heads p d"]:
        """The centre's side of Eq. 6."""
        raise NotImplementedError

    def values_read(
        self, running: Running
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n c"]]:
        """What each token has read of the centre and of the aligned Ref."""
        raise NotImplementedError

    def look_up(
        self,
        lr_feat: Float[Tensor, "b c h w"],
        center_tokens: Float[Tensor, "b n c"],
        ref_tokens: Float[Tensor, "b n c"],
    ) -> Float[Tensor, "b c h w"]:
        """Each LR pixel reads the Ref dictionary where it resembles the centre's (Eqs. 10, 11)."""
        raise NotImplementedError


def _added(
    running: Running | None,
    logits: Float[Tensor, "b *heads n p"],
    center: Float[Tensor, "b p c"],
    aligned: Float[Tensor, "b p c"],
) -> Running:
    # Whatever is subtracted cancels, and has no gradient.
    peak = logits.detach().amax(dim=-1, keepdim=True)
    if running is not None:
        peak = torch.maximum(peak, running.peak)
    if logits.ndim == 4:
        center, aligned = center.unsqueeze(1), aligned.unsqueeze(1)
    share = (logits - peak).exp_()
    sums = share.sum(dim=-1, keepdim=True), share @ center, share @ aligned
    if running is None:
        return Running(peak, *sums)
    fade = (running.peak - peak).exp()
    return Running(peak, *(fade * old + new for old, new in zip(running[1:], sums, strict=True)))


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


def exact_pixels(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h*w c"]:
    """In float32 or better."""
    return pixels_of(features).to(torch.promote_types(features.dtype, torch.float32))
