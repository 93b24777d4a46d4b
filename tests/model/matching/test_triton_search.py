"""The kernel for GPUs, in Triton's interpreter, and what its number format keeps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sddusr.model.matching import nearest_key
from sddusr.model.matching.nearest_key import block_search, plain_search
from tests.pretend_gpu import CUDA, pretend_gpu

ROOT = Path(__file__).resolve().parents[3]


def test_the_kernel_finds_what_the_plain_search_finds():
    pytest.importorskip("triton", reason="comes with torch's CUDA builds on Linux")
    script = Path(__file__).with_name("interpreted_kernel.py")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "equal", done.stderr


def rounded_to_tf32(x):
    """Ten bits behind the point, to nearest."""
    bits = x.view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def test_three_products_of_tf32_choose_as_float32_does():
    """What `tf32x3` computes: the small parts' product is left out. The interpreter ignores it."""
    torch.manual_seed(0)
    query, key = (F.normalize(torch.randn(num, 144), dim=1) for num in (300, 1000))
    large = rounded_to_tf32(query), rounded_to_tf32(key)
    small = rounded_to_tf32(query - large[0]), rounded_to_tf32(key - large[1])
    score = small[0] @ large[1].T + large[0] @ small[1].T + large[0] @ large[1].T
    truth = query.double() @ key.double().T
    assert (score - truth).abs().max() < 1e-6
    assert torch.equal(score.argmax(1), truth.argmax(1))
    assert (large[0] @ large[1].T - truth).abs().max() > 1e-5  # one product alone is coarser


def test_a_gpu_with_triton_takes_one_kernel(monkeypatch):
    torch.manual_seed(0)
    query, key = torch.randn(50, 9), torch.randn(70, 9)
    for has_triton in (True, False):
        monkeypatch.setattr(nearest_key, "has_triton", lambda has=has_triton: has)
        with pretend_gpu() as gpu:
            found = plain_search(query.to(CUDA), key.to(CUDA))
            index = found.key_index.cpu()
        launched = "sddusr.best_key.default" in gpu.counts.launches
        assert launched == has_triton
        assert torch.equal(index, block_search(query, key).key_index)
