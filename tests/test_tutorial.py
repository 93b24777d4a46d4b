"""The tutorial runs from its first cell to its last."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_the_tutorial_runs(tmp_path):
    cells = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    script = tmp_path / "tutorial.py"
    # A worker of Ray's imports what the notebook's process imported, so no guard is needed.
    script.write_text("\n\n".join(code))
    env = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "TMPDIR": str(tmp_path)}
    env["RAY_TMPDIR"] = "/tmp"  # the path of a socket may have 107 letters
    done = subprocess.run(
        [sys.executable, str(script)], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (page,) = tmp_path.glob("sddusr-*/results/page.html")
    assert page.stat().st_size > 10_000
    assert "bicubic" in done.stdout
    assert "homography" in done.stdout
