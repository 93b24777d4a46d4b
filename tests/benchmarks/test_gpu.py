"""The GPU's benchmark runs before it meets a card."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from _gpu_setup import Setup

from benchmarks import gpu

ROOT = Path(__file__).resolve().parents[2]
PARTS = ["ceilings", "parity", "determinism", "step", "variants", "matching", "picture", "curve",
         "run", "group"]  # fmt: skip

HIDDEN = """
import sys
for name in ("ray", "mlflow", "tyro", "lpips", "beartype"):
    sys.modules[name] = None  # an import of it fails: where the first card is, there is little
"""


def rehearse(folder, *given):
    """The rows of gpu.json, by part."""
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--out", str(folder), *given]
    absent = folder / "absent"
    absent.mkdir()
    (absent / "sitecustomize.py").write_text(HIDDEN)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(absent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    rows = json.loads((folder / "gpu.json").read_text())
    assert done.returncode == 0, f"{rows}\n{done.stderr}"
    return {part: [row for row in rows if row["part"] == part] for part in ["machine", *PARTS]}


def test_what_decides_is_rehearsed_on_a_cpu(tmp_path):
    found = rehearse(tmp_path, "--device", "cpu", "--quick", "--parts", "matching", "group")
    assert found["matching"][0]["same_index"] == 1.0
    assert found["matching"][0]["floor_ms"] > 0
    assert found["group"][0]["gradients"] > 100


def test_parts_that_would_begin_too_late_are_left_out():
    rows = list(gpu.all_rows(PARTS, Setup(torch.device("cpu"), True, False), 0.0))[1:]
    assert [row["part"] for row in rows] == PARTS
    assert all("0 minutes have passed" in row["skipped"] for row in rows)


def test_rows_make_tables():
    rows = [
        {"part": "step", "format": "tf32", "ms": 12.3456, "passes": True},
        {"part": "step", "format": "bfloat16", "ratio": None},
        {"part": "step", "seconds": 3.5},
    ]
    assert gpu.tables(rows) == (
        "**step**, 3.5 s\n\n| format | ms | passes | ratio |\n| --- | --- | --- | --- |\n"
        "| tf32 | 12.3 | yes |  |\n| bfloat16 |  |  |  |\n"
    )


@pytest.mark.long
def test_all_parts_are_rehearsed_on_a_cpu(tmp_path):
    found = rehearse(tmp_path, "--device", "cpu", "--quick")
    for part in PARTS:
        *measured, total = found[part]
        assert measured, part
        assert total["seconds"] > 0
        assert not any("skipped" in row for row in measured)
    assert 0 < found["run"][0]["stopped_at"] < found["run"][0]["ended_at"]
    assert all(row["bit_equal"] for row in found["determinism"][:-1])


@pytest.mark.long
def test_a_pretend_card_counts_what_a_card_would_be_asked(tmp_path):
    found = rehearse(tmp_path, "--device", "pretend", "--quick")
    assert found["step"][0]["waits"] <= 2
    assert found["picture"][0]["waits"] <= 10
    assert found["picture"][0]["nchw"] == 0
    assert found["matching"][0]["waits"] == 0
    assert all("skipped" in found[part][0] for part in ("ceilings", "parity", "curve", "run"))
