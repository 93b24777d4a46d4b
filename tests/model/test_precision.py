"""Formats that a device does not compute are neither chosen nor used without a word."""

import logging

import pytest
import torch

from sddusr.model import precision
from sddusr.model.precision import native_precision, warn_if_emulated

CPU = torch.device("cpu")


@pytest.mark.parametrize("is_native", [True, False])
def test_the_fastest_format_is_one_that_the_processor_computes(monkeypatch, caplog, is_native):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: is_native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert native_precision(CPU) == ("bfloat16" if is_native else "float32")
    with caplog.at_level(logging.WARNING, precision.__name__):
        warn_if_emulated("float32", CPU)
        warn_if_emulated("bfloat16", CPU)
    assert len(caplog.records) == (0 if is_native else 1)
    assert is_native or "--precision float32" in caplog.text
