"""Number formats of the network, and which of them a device computes.

- `float32` is IEEE's, in convolutions and products alike. Torch's own default on a GPU is not:
  convolutions there are TF32, so tiles would equal the whole to 1e-3 only, and near ties of two
  keys would fall otherwise than on a CPU.
- `tf32` lets a GPU round what it multiplies to 10 bits; a CPU computes float32.
- `bfloat16` is autocast. What is kept in float32 there (flow, offsets, matching features, logits)
  is IEEE's.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from sddusr.config.choices import Precision

log = logging.getLogger(__name__)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is the device's own; others emulate it and take longer than for float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def native_precision(device: torch.device) -> Precision:
    """The fastest format that the device computes itself."""
    return "bfloat16" if computes_bfloat16(device) else "float32"


@contextmanager
def computing_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Inside, the network computes in a format, without backward."""
    is_coarse = precision == "bfloat16"
    with (
        multiplying_in(precision, device),
        torch.autocast(device.type, torch.bfloat16, enabled=is_coarse),
    ):
        yield


@contextmanager
def multiplying_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Inside, a GPU multiplies float32 as the format wants it, forward and backward."""
    products: Any = torch.backends.cuda.matmul
    convolutions: Any = torch.backends.cudnn.conv  # pyright: ignore[reportAttributeAccessIssue]
    before = products.fp32_precision, convolutions.fp32_precision
    name = "tf32" if precision == "tf32" else "ieee"
    if device.type == "cuda":
        products.fp32_precision = convolutions.fp32_precision = name
    try:
        yield
    finally:
        if device.type == "cuda":
            products.fp32_precision, convolutions.fp32_precision = before


def common_precision(natives: Sequence[Precision]) -> Precision:
    """The format of ranks on different devices: what all of them compute themselves."""
    if len(set(natives)) == 1:
        return natives[0]
    log.warning(
        "the ranks' devices compute %s natively; all take float32 (--train.precision bfloat16 "
        "takes that everywhere)",
        " and ".join(sorted(set(natives))),
    )
    return "float32"


def warn_if_emulated(
    precision: Precision, device: torch.device, remedy: str = "--precision float32"
) -> None:
    """Say so where a format was asked for that takes longer than the exact one."""
    if precision == "bfloat16" and not computes_bfloat16(device):
        log.warning(
            "bfloat16 is emulated on this %s and takes longer than float32 would; pass %s",
            "GPU" if device.type == "cuda" else "processor, which has neither AVX512-BF16 nor AMX",
            remedy,
        )
