"""Names that flags and functions choose from."""

from typing import Literal

MatchingMode = Literal["exact", "fast", "auto"]
"""How keys are searched. `exact` compares every query with every key, `fast` with a few clusters of
keys. `auto` takes `fast` for large pictures, and `exact` where a check finds `fast` worse."""

Precision = Literal["float32", "tf32", "bfloat16"]
"""Number format of the network, see `model/precision.py`."""

Runtime = Literal["torch", "onnx"]
"""What runs the network."""
