"""What the detail skip costs: the network that ships, beside itself without it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from _timing import arguments, compare, finish
from inference import FULL, QUICK, pictures

from sddusr.checkpoint import read_checkpoint
from sddusr.config.arguments import parse_args
from sddusr.inference import super_resolve
from sddusr.model.precision import Precision, computes_bfloat16
from sddusr.model.sddusr import SDDuSR
from sddusr.pretrained import COMPACT


def main() -> None:
    given = parse_args(arguments(__doc__))
    size = QUICK if given.quick else FULL
    precisions: list[Precision] = ["float32"]
    if computes_bfloat16(torch.device("cpu")):
        precisions.append("bfloat16")
    rows = [
        compare(
            f"detail skip/{precision}",
            partial(upscaling, size, precision),
            partial(upscaling, size, precision, with_detail=False),
            given,
        )
        for precision in precisions
    ]
    finish(rows, given)


def upscaling(
    size: tuple[int, int], precision: Precision, *, with_detail: bool = True
) -> Callable[[], Any]:
    """With the weights that ship, or with those that a network without a detail skip has."""
    found = read_checkpoint(COMPACT)
    detail = replace(found.config.model.detail, enabled=with_detail)
    model = SDDuSR(replace(found.config.model, detail=detail)).eval()
    model.load_state_dict({name: found.model_state[name] for name in model.state_dict()})
    return partial(super_resolve, model, *pictures(size), precision)


if __name__ == "__main__":
    main()
