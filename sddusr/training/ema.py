"""The exponential moving average of the weights."""

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sddusr.config import Config
from sddusr.model.sddusr import SDDuSR


class WeightAverage:
    """A second network whose weights follow the trained one's, in float32.

    `decay` of them stays at each step; less in the first steps, or the start would outlive them.
    Both are functions of the step alone, so a resumed run needs the average and nothing else.
    """

    def __init__(self, model: SDDuSR, config: Config) -> None:
        self.decay = config.train.ema_decay
        self.model = SDDuSR(config.model).to(next(model.parameters()).device)
        self.model.to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.model.load_state_dict(model.state_dict())

    @torch.no_grad()
    def update(self, model: SDDuSR, step: int) -> None:
        """Move on after the optimizer's 0-based `step`."""
        averaged: list[Tensor] = list(self.model.parameters())
        current: list[Tensor] = list(model.parameters())
        blend = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        blend(averaged, current, step)
        if self.model.dictionary is not None:  # written tokens are an average already
            assert model.dictionary is not None
            tokens = model.dictionary.buffers()
            for kept, now in zip(self.model.dictionary.buffers(), tokens, strict=True):
                kept.copy_(now)
