"""How near a graph comes to the part of the network that it was made from, and how fast it is."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sddusr.export.lowering import ExportPrecision
from sddusr.export.specs import GraphSpec

MAX_ERROR = 1e-4
"""Largest difference of a float32 graph, of the largest value that it gives."""

MIN_DECIBEL = 50.0
"""Smallest peak signal-to-noise ratio of a float16 graph."""

SIDES = {"h": 18, "w": 22, "rows": 60, "cols": 64, "n": 40, "windows": 2}
"""Sides of the inputs that a graph is traced with; one side is half, twice or four times that."""

OTHER_SIDES = {"h": 25, "w": 17, "rows": 52, "cols": 71, "n": 63, "windows": 3}
"""Sides that parity is measured with too: a size that was baked in shows here."""

TIMING_PAIRS = 5


@dataclass(frozen=True, kw_only=True)
class GraphReport:
    """How a graph compares to the part of the network that it was made from."""

    name: str
    file: str
    num_bytes: int
    operators: dict[str, int] = field(default_factory=dict)
    """Kind of operator -> how many."""
    max_error: float
    """Largest difference, of the largest value."""
    decibel: float
    """Peak signal-to-noise ratio, of the worst output."""
    torch_ms: float
    graph_ms: float
    """Milliseconds of the network's part and of the graph, the fastest of pairs."""


Run = Callable[[tuple[Tensor, ...]], tuple[np.ndarray, ...]]


def compare(spec: GraphSpec, run: Run, sides: dict[str, int], seed: int) -> tuple[float, float]:
    """Largest relative difference and the lowest peak signal-to-noise ratio of the outputs."""
    inputs = spec.example(sides, seed)
    with torch.no_grad():
        wanted = [x.double().numpy() for x in as_tuple(spec.module(*inputs))]
    errors, decibels = [0.0], [math.inf]
    for name, want, got in zip(spec.outputs, wanted, run(inputs), strict=True):
        if got.shape != want.shape:
            raise ValueError(
                f"graph {spec.name}: output {name} is {got.shape}, the network gives {want.shape}"
            )
        if not (np.isfinite(got).all() and np.isfinite(want).all()):
            raise ValueError(f"graph {spec.name}: output {name} is not finite")
        error, peak = np.abs(got - want), max(np.abs(want).max(initial=0), 1e-6)
        errors.append(float(error.max(initial=0) / peak))
        mse = float(np.square(error / peak).mean()) if error.size else 0.0
        decibels.append(math.inf if mse == 0 else -10 * math.log10(mse))
    return max(errors), min(decibels)


def check_parity(made: GraphReport, precision: ExportPrecision) -> None:
    """Refuse a graph that is too far from the network.

    Raises:
        ValueError: by how much.
    """
    if precision == "float32" and not made.max_error <= MAX_ERROR:
        raise ValueError(
            f"graph {made.name} differs from the network by {made.max_error:.1e} of its largest "
            f"value, need at most {MAX_ERROR:.0e}; no package is written"
        )
    if precision == "float16" and not made.decibel >= MIN_DECIBEL:
        raise ValueError(
            f"graph {made.name} in float16 is within {made.decibel:.1f} dB of the network, need "
            f"{MIN_DECIBEL:.0f} dB; export with --precision float32"
        )


def time_pairs(spec: GraphSpec, run: Run) -> tuple[float, float]:
    """The fastest run of the network's part and of the graph, taken in turns, in milliseconds."""
    inputs = spec.example(SIDES)

    def eager(inputs: tuple[Tensor, ...]) -> Any:
        with torch.no_grad():
            return spec.module(*inputs)

    times: dict[Any, list[float]] = {eager: [], run: []}
    for _ in range(TIMING_PAIRS):
        for which, taken in times.items():
            start = time.perf_counter()
            which(inputs)
            taken.append(1e3 * (time.perf_counter() - start))
    return min(times[eager]), min(times[run])


def as_tuple(made: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return made if isinstance(made, tuple) else (made,)
