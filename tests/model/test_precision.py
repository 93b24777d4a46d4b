"""Formats that a device does not compute are neither chosen nor used without a word."""

import logging
from contextlib import nullcontext
from unittest import mock

import pytest
import torch

from sddusr.model import precision
from sddusr.model.precision import (
    common_precision,
    computing_in,
    native_precision,
    warn_if_emulated,
)

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


def test_formats_mean_what_they_say():
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = products.fp32_precision, convolutions.fp32_precision
    gpu = torch.device("cuda")
    with mock.patch.object(torch, "autocast", side_effect=lambda *_, **__: nullcontext()):
        for precision, wanted in (("float32", "ieee"), ("bfloat16", "ieee"), ("tf32", "tf32")):
            with computing_in(precision, gpu):
                assert (products.fp32_precision, convolutions.fp32_precision) == (wanted, wanted)
            assert (products.fp32_precision, convolutions.fp32_precision) == before


def test_ranks_on_different_devices_take_what_all_compute(caplog):
    assert common_precision(["bfloat16", "bfloat16"]) == "bfloat16"
    assert not caplog.text
    assert common_precision(["bfloat16", "float32", "bfloat16"]) == "float32"
    assert "the ranks' devices compute bfloat16 and float32 natively" in caplog.text
