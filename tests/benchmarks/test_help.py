"""The benchmarks run from an environment where only `sddusr` is installed, as the pages say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(
    "name",
    [path.name for path in sorted(BENCHMARKS.glob("[!_]*.py")) if "pipelines" in path.read_text()],
)
def test_a_script_finds_the_checkout_that_it_is_in(name, tmp_path):
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, BENCHMARKS / name, "--help"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")
