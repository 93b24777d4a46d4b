"""Optimizer and schedule."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from sddusr.config import OptimConfig


def make_optimizer(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.Adam:
    """Adam; its learning rate is set before every step from `learning_rate`."""
    return torch.optim.Adam(parameters, lr=config.lr)


def learning_rate(step: int, num_steps: int, config: OptimConfig) -> float:
    """Rate of 0-based `step`: linear warm-up, then a cosine from `lr` to `min_lr`.

    A function of the step alone, so a resumed run needs no scheduler state.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    last = max(num_steps - 1 - config.warmup_steps, 1)
    progress = min((step - config.warmup_steps) / last, 1.0)
    return config.min_lr + 0.5 * (config.lr - config.min_lr) * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
