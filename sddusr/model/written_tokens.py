"""Tokens that training overwrites, and tokens that it learns by gradients."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sddusr.config import DictionaryConfig

SumOverRanks = Callable[[Tensor], Tensor]


class Tokens(nn.Module):
    """The two dictionaries of a network, as weights or, `written`, as buffers.

    Written ones follow D <- (1 - r) D + r mean(refined D) after each step of the optimizer, with r
    the write rate and the mean over the global batch; they get no gradient. In evaluation nothing
    is written, so that a result depends on no earlier picture.
    """

    center_tokens: Float[Tensor, "n c"]
    ref_tokens: Float[Tensor, "n c"]

    def start_tokens(self, dim: int, config: DictionaryConfig) -> None:
        """Draw both dictionaries."""
        self.write_rate = config.write_rate if config.tokens == "written" else 0.0
        drawn = {
            "center_tokens": torch.randn(config.num_tokens, dim),
            "ref_tokens": config.token_scale * torch.randn(config.num_tokens, dim),
        }
        for name, tokens in drawn.items():
            if self.write_rate:
                self.register_buffer(name, tokens)
            else:
                setattr(self, name, nn.Parameter(tokens))
        self._seen: Float[Tensor, "2*n*c+1"] | None = None

    def note(self, center: Float[Tensor, "b n c"], ref: Float[Tensor, "b n c"]) -> None:
        """Add a batch's refined tokens to what the next `write` averages."""
        if not self.write_rate or not self.training:
            return
        sums = [tokens.detach().sum(0).flatten() for tokens in (center, ref)]
        seen = torch.cat([*sums, sums[0].new_full((1,), len(center))])
        self._seen = seen if self._seen is None else self._seen + seen

    @torch.no_grad()
    def write(self, sum_over_ranks: SumOverRanks) -> dict[str, Float[Tensor, ""]]:
        """Move written tokens; does nothing for learned ones.

        Args:
            sum_over_ranks: makes the sum of all ranks' tensors, on every rank; each calls it once.

        Returns:
            `center_token_spread` and `ref_token_spread`: standard deviation over the tokens, mean
            over channels. Near 0 all tokens have become the same.
        """
        if not self.write_rate:
            return {}
        if self._seen is None:
            raise RuntimeError("no tokens were refined since the last write; run forward first")
        seen, self._seen = sum_over_ranks(self._seen), None
        means = (seen[:-1] / seen[-1]).view(2, *self.center_tokens.shape)
        spreads = {}
        for name, mean in zip(("center_token", "ref_token"), means, strict=True):
            tokens = getattr(self, f"{name}s")
            tokens.lerp_(mean.to(tokens.dtype), self.write_rate)
            spreads[f"{name}_spread"] = tokens.std(dim=0).mean()
        return spreads
