"""The GPU's benchmark runs before it meets a card."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ["ceilings", "parity", "determinism", "step", "variants", "matching", "picture", "curve",
         "run", "group"]  # fmt: skip


def rehearse(folder, *given):
    """The rows of gpu.json, by part."""
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--out", str(folder), *given]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    rows = json.loads((folder / "gpu.json").read_text())
    assert done.returncode == 0, f"{rows}\n{done.stderr}"
    return {part: [row for row in rows if row["part"] == part] for part in ["machine", *PARTS]}


def test_what_decides_is_rehearsed_on_a_cpu(tmp_path):
    found = rehearse(tmp_path, "--device", "cpu", "--quick", "--parts", "matching", "group")
    assert found["matching"][0]["same_index"] == 1.0
    assert found["group"][0]["gradients"] > 100


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
