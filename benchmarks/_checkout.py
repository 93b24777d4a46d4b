"""Lets a script of this folder import `pipelines`, which is not installed: it comes first."""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
