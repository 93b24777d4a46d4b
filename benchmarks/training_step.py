"""A training step of `paper` (-rec) beside the plain way, which has neither masks nor dictionaries.

Ours runs in the fastest format that the processor computes itself, the plain way in float32.

`--curve` trains `demo` in both formats instead, and prints how far apart their losses end.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import reference
import torch
from _network import model_config, network, network_operations, textured
from _timing import arguments, compare, finish, measured_rates
from torch import Tensor

from sddusr.config import PRESETS
from sddusr.config.arguments import parse_args
from sddusr.training.learner import Learner
from sddusr.training.losses import charbonnier
from sddusr.types import Batch

FULL, QUICK = (4, 128), (1, 64)
"""Batch and crop."""

KEPT_SHARE = 0.55
"""Of the queries, by a mask that has learned nothing yet."""

CURVE_STEPS, LAST_STEPS = 200, 50
SEEDS = 0, 1, 2


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--curve", action="store_true")
    given = parse_args(parser)
    if given.curve:
        curve(given)
        return
    size = QUICK if given.quick else FULL
    floor = operations(*size) / measured_rates(given.threads).conv
    row = compare("training-step", partial(ours, *size), partial(plainly, *size), given, floor)
    finish([row], given)


def operations(batch: int, crop: int) -> float:
    """Forward, twice as many backward, and backward's product of patches for all pairs of a kept
    query and a key."""
    cells = (crop // 2) ** 2
    forward = network_operations(network("paper"), crop**2, crop**2, cells**2)
    return batch * (3 * forward + 2 * 81 * 64 * KEPT_SHARE * cells**2)


def batch_of(num: int, crop: int, seed: int = 0) -> Batch:
    """Crops of synthetic pictures; LR is the mean of 2x2 HR pixels."""
    hr = torch.stack([textured(2 * crop, 2 * crop, seed + i) for i in range(num)])
    ref = torch.stack([textured(2 * crop, 2 * crop, seed + i + num) for i in range(num)])
    lr, center = (torch.nn.functional.avg_pool2d(picture, 2) for picture in (hr, ref))
    label = torch.arange(crop // 2).remainder(2).expand(num, 1, crop // 2, crop // 2).float()
    seeds = torch.arange(seed, seed + num)
    return Batch(
        ids=tuple(map(str, range(num))),
        lr=lr,
        lr_center=center,
        ref=ref,
        hr=hr,
        mask_label=label,
        seeds=seeds,
        center_offset=torch.full((num, 2), crop),
        has_ref=torch.ones(num, dtype=torch.bool),
    )


def ours(num: int, crop: int) -> Callable[[], Any]:
    paper = PRESETS["paper"][1]
    train = replace(paper.train, precision="auto", batch_size=num)
    learner = Learner(replace(paper, model=model_config("paper"), train=train), torch.device("cpu"))
    return partial(learner.step, batch_of(num, crop), 0)


def plainly(num: int, crop: int) -> Callable[[], Any]:
    model = network("baseline")
    return partial(_plain_step, model, torch.optim.Adam(model.parameters()), batch_of(num, crop))


def _plain_step(model: Any, optimizer: torch.optim.Adam, batch: Batch) -> Tensor:
    optimizer.zero_grad()
    sr = reference.train_forward(model, batch.lr, batch.lr_center, batch.ref)
    loss = charbonnier(sr, batch.hr, 1e-3)
    loss.backward()
    optimizer.step()
    return loss


def curve(given: argparse.Namespace) -> None:
    """Mean loss of the last steps, for each seed and format: formats against seeds."""
    torch.set_num_threads(given.threads)
    for seed in SEEDS:
        ends = {name: last_loss(name, seed) for name in ("float32", "bfloat16")}
        apart = ends["bfloat16"] / ends["float32"] - 1
        print(
            f"seed {seed}: last {LAST_STEPS} of {CURVE_STEPS} steps, float32 "
            f"{ends['float32']:.6f}, bfloat16 {ends['bfloat16']:.6f}, {apart:+.3%}",
            flush=True,
        )


def last_loss(precision: Any, seed: int) -> float:
    demo = PRESETS["demo"][1]
    train = replace(demo.train, precision=precision, seed=seed, num_steps=CURVE_STEPS)
    learner = Learner(replace(demo, train=train), torch.device("cpu"))
    size = train.batch_size, demo.data.crop_px
    losses = [
        learner.step(batch_of(*size, seed=1000 * step), step)["reconstruction"].item()
        for step in range(CURVE_STEPS)
    ]
    return sum(losses[-LAST_STEPS:]) / LAST_STEPS


if __name__ == "__main__":
    main()
