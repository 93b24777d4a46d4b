"""Optimizer and schedule."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from sddusr.config import OptimConfig
from sddusr.model.tuning import tuning


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    config: OptimConfig,
    slower: Iterable[tuple[Iterable[nn.Parameter], float]] = (),
) -> torch.optim.Adam:
    """Adam; its learning rate is set before every step from `learning_rate`.

    Args:
        slower: those of the parameters that learn at a share of the rate, and only from
            `config.align_from_step` on; and the share.
    """
    groups: list[dict[str, Any]] = [
        {"params": list(group), "lr_scale": scale, "from_step": config.align_from_step}
        for group, scale in slower
    ]
    apart = {id(parameter) for group in groups for parameter in group["params"]}
    others = [parameter for parameter in parameters if id(parameter) not in apart]
    is_fused = all(tuning(parameter.device).fused_adam for parameter in others)
    return torch.optim.Adam(
        [{"params": others, "lr_scale": 1.0, "from_step": 0}, *groups],
        lr=config.lr,
        fused=is_fused or None,  # None: torch chooses
    )


def learning_rate(step: int, num_steps: int, config: OptimConfig) -> float:
    """Rate of 0-based `step`: linear warm-up, then a cosine from `lr` to `min_lr`.

    A function of the step alone, so a resumed run needs no scheduler state.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    last = max(num_steps - 1 - config.warmup_steps, 1)
    progress = min((step - config.warmup_steps) / last, 1.0)
    return config.min_lr + 0.5 * (config.lr - config.min_lr) * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float, step: int) -> None:
    """Each group's rate of 0-based `step`, of which the network's is `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"] if step >= group["from_step"] else 0.0
