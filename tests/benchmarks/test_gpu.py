"""The GPU's benchmark runs before it meets a card."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_search_is_rehearsed_without_a_card(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "gpu.py"),
        *("--out", str(tmp_path), "--device", "cpu", "--quick", "--parts", "matching"),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    machine, measured, total = json.loads((tmp_path / "gpu.json").read_text())
    assert done.returncode == 0, done.stderr
    assert machine["part"] == "machine"
    assert measured["passes"]
    assert measured["same_index"] == 1.0
    assert total["seconds"] > 0
