"""Token dictionary learning (section 3.3, Eqs. 6 to 11)."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from sddusr.config import DictionaryConfig

COSINE_SCALE = 10.0
"""Start of the learned sharpness of cosine attention."""


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
        center, aligned = _pixels(center_feat), _pixels(aligned_feat)
        query = self.update_query(self.center_tokens).expand(len(center), -1, -1)
        values = torch.cat(
            [self.update_center_value(center), self.update_ref_value(aligned)], dim=-1
        )
        update = self.attend(query, self.update_key(center), values)
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

    def attend(
        self,
        query: Float[Tensor, "b rows c"],
        key: Float[Tensor, "b cols c"],
        value: Float[Tensor, "b cols cv"],
    ) -> Float[Tensor, "b rows cv"]:
        """Softmax attention over the columns, streamed: the score matrix is not kept."""
        query, key = query.to(value.dtype), key.to(value.dtype)
        scale = query.shape[-1] ** -0.5 if self.attention == "sqrt_d" else 1.0
        if self.attention == "cosine":
            query = F.normalize(query, dim=-1) * self.sharpness.exp().to(query.dtype)
            key = F.normalize(key, dim=-1)
        # The streaming kernel wants one width for all three; zeros change no logit.
        wider = (0, value.shape[-1] - query.shape[-1])
        query, key = F.pad(query, wider).unsqueeze(1), F.pad(key, wider).unsqueeze(1)
        found = F.scaled_dot_product_attention(query, key, value.unsqueeze(1), scale=scale)
        return found.squeeze(1)


def _pixels(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h*w c"]:
    return rearrange(features, "b c h w -> b (h w) c")
