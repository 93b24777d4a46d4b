"""The benchmarks are scripts: their folder is no package. Ray's workers find it by PYTHONPATH,
which is set before any test starts their cluster."""

import os
import sys
from pathlib import Path

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")

sys.path.insert(0, BENCHMARKS)
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [BENCHMARKS, os.environ.get("PYTHONPATH", "")])
)
