"""Mask generator: which cells are worth searching for (section 3.2, after DynamicViT)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

KEEP = 1
"""Index of the decision "takes part"."""

STRIP_CELLS = 64
"""Rows of cells that inference decides about at once."""


class MaskGenerator(nn.Module):
    """Per-cell MLP that reads half its channels locally and half as their mean over the frame."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        self.decide = nn.Sequential(
            nn.Linear(dim, dim // 2),
            nn.GELU(),
            nn.Linear(dim // 2, dim // 4),
            nn.GELU(),
            nn.Linear(dim // 4, 2),
        )

    def log_probs(self, features: Float[Tensor, "b d h w"]) -> Float[Tensor, "b 2 h w"]:
        """Log-probabilities of dropping and of keeping each cell, in float32."""
        local, shared = self._halves(features)
        return self._decide(local, shared.mean(dim=(1, 2), keepdim=True))

    def sample(
        self, features: Float[Tensor, "b d h w"], gumbel: Float[Tensor, "b 2 h w"]
    ) -> Float[Tensor, "b 1 h w"]:
        """A hard mask by Gumbel-softmax; its gradient is the soft one's (straight through)."""
        soft = torch.softmax(self.log_probs(features) + gumbel, dim=1)[:, KEEP:]
        hard = (soft > 0.5).to(soft.dtype)
        # In this order the forward value is exactly 0 or 1.
        return hard + (soft - soft.detach())

    def keep(self, features: Float[Tensor, "b d h w"]) -> Bool[Tensor, "b 1 h w"]:
        """The decision of inference: p ≥ 0.5, never sampled; in strips, the frame may be large."""
        strips = features.split(STRIP_CELLS, dim=2)
        mean = torch.as_tensor(sum(map(self.shared_sum, strips))) / features[0, 0].numel()
        return torch.cat([self.keep_cells(strip, mean) for strip in strips], 2)

    def shared_sum(self, features: Float[Tensor, "b d h w"]) -> Float[Tensor, "b 1 1 half"]:
        """What is read of the frame, summed over a part of it."""
        return self._halves(features)[1].sum(dim=(1, 2), keepdim=True)

    def keep_cells(
        self, features: Float[Tensor, "b d h w"], mean: Float[Tensor, "b 1 1 half"]
    ) -> Bool[Tensor, "b 1 h w"]:
        """The decision for a part of the frame, given the frame's mean of `shared_sum`."""
        log_probs = self._decide(self._halves(features)[0], mean)
        return log_probs[:, KEEP:] >= log_probs[:, :KEEP]

    def _halves(self, features: Float[Tensor, "b d h w"]) -> tuple[Tensor, Tensor]:
        """What is read of each cell, and what is read of the frame; channels last."""
        embedded = self.embed(rearrange(features, "b d h w -> b h w d"))
        local, shared = embedded.chunk(2, dim=-1)
        return local, shared

    def _decide(
        self, local: Float[Tensor, "b h w half"], mean: Float[Tensor, "b 1 1 half"]
    ) -> Float[Tensor, "b 2 h w"]:
        logits = self.decide(torch.cat([local, mean.expand_as(local)], dim=-1)).float()
        return rearrange(F.log_softmax(logits, dim=-1), "b h w two -> b two h w")


def gumbel_noise(seeds: Tensor, height: int, width: int) -> Float[Tensor, "b 2 height width"]:
    """Standard Gumbel noise on the processor, a function of each sample's own seed.

    So a sample meets the same noise on any rank, and a resumed run needs no generator state.
    """
    noise = torch.stack(
        [
            torch.empty(2, height, width).exponential_(
                generator=torch.Generator().manual_seed(int(seed))
            )
            for seed in seeds
        ]
    )
    return -noise.clamp_min(torch.finfo(noise.dtype).tiny).log()
