"""Number formats of the network, and which of them a device computes."""

import logging

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
