"""Whole pictures with `paper`, random weights and every cell searched for, beside the plain way.

The plain way has neither masks nor dictionaries. `--large` takes 1280x1792 instead of 448x896.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import reference
import torch
from _network import network, network_operations, textured
from _timing import arguments, compare, finish, measured_rates

from sddusr.config.arguments import parse_args
from sddusr.geometry.box import centered, whole
from sddusr.inference import super_resolve, to_tensor
from sddusr.model.precision import Precision, computes_bfloat16

FULL, LARGE, QUICK = (448, 896), (1280, 1792), (96, 192)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--large", action="store_true")
    given = parse_args(parser)
    size = QUICK if given.quick else LARGE if given.large else FULL
    rates = measured_rates(given.threads)
    num_px = size[0] * size[1]
    work = network_operations(network("paper"), num_px, num_px // 4, num_px // 4 * num_px // 16)
    measured: list[tuple[Precision, float]] = [("float32", rates.conv_float32)]
    is_native = computes_bfloat16(torch.device("cpu"))
    if is_native:
        measured.append(("bfloat16", rates.conv_bfloat16))
    else:
        print("bfloat16 is emulated on this processor, and left out", flush=True)
    rows = [
        compare(
            f"inference/{precision}",
            partial(ours, size, precision),
            partial(plainly, size),
            given,
            work / rate,
        )
        for precision, rate in measured
    ]
    torch.set_num_threads(given.threads)
    if is_native:
        print(f"bfloat16 against float32: {psnr(size):.1f} dB")
    finish(rows, given)


def pictures(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, Any]:
    """LR, Ref and the place of Ref, as bytes."""
    hr = (textured(2 * size[0], 2 * size[1]) * 255).byte().permute(1, 2, 0).numpy()
    box = centered(size[0], size[1], whole(*hr.shape[:2]))
    lr = hr.reshape(size[0], 2, size[1], 2, 3).mean((1, 3)).round().astype(np.uint8)
    return lr, np.ascontiguousarray(hr[box.y0 : box.y1, box.x0 : box.x1]), box


def ours(size: tuple[int, int], precision: Precision) -> Callable[[], Any]:
    model = network("paper").eval().to(memory_format=torch.channels_last)
    return partial(super_resolve, model, *pictures(size), precision)


def plainly(size: tuple[int, int]) -> Callable[[], Any]:
    lr, ref, box = pictures(size)
    center = lr[box.y0 // 2 : box.y1 // 2, box.x0 // 2 : box.x1 // 2]
    given = [to_tensor(np.ascontiguousarray(picture))[None] for picture in (lr, center, ref)]
    return partial(
        torch.inference_mode()(reference.super_resolve), network("baseline").eval(), *given
    )


def psnr(size: tuple[int, int]) -> float:
    """Of the bfloat16 result against the float32 one."""
    fine, coarse = (ours(size, precision)().sr for precision in ("float32", "bfloat16"))
    return float(-10 * np.log10(np.square(fine - coarse).mean()))


if __name__ == "__main__":
    main()
