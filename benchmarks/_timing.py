"""Two ways of one thing, measured in turn in one run: time, memory, and this machine's floor.

Each way lives in a process of its own, so that neither's memory is counted as the other's; they
alternate, so that a drift of the machine's speed hits both. Each has run once before it is timed,
and short ones are timed many times over: what a first call does for all later ones is nobody's
speed. On a busy machine the ratio of processor times is the steadier figure, and is printed too.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

MEGABYTE = 10**6

LONG_ENOUGH_S = 0.3
"""Of a shorter work the mean of as many calls as take this long is told."""

Prepare = Callable[[], Callable[[], Any]]
"""Makes the inputs and gives the work to be measured; a function that can be pickled."""


@dataclass(frozen=True)
class Row:
    """What one comparison gave, as `--json` writes it."""

    name: str
    ratio: float
    """Median of reference / ours."""
    spread: tuple[float, float]
    """Smallest and largest ratio."""
    cpu_ratio: float
    """The same of processor times."""
    ours_s: float
    reference_s: float
    floor_s: float
    """Operations over this machine's measured rate; 0 where none was given."""
    ours_peak_mb: float
    """Over the inputs."""
    reference_peak_mb: float


@dataclass(frozen=True)
class Rates:
    """What this machine reaches, in operations (two for a multiply-add) or bytes a second."""

    matrix_float32: float
    matrix_bfloat16: float
    conv_float32: float
    """3x3, 64 channels, channels last."""
    conv_bfloat16: float
    bandwidth: float

    @property
    def matrix(self) -> float:
        """Of the faster format."""
        return max(self.matrix_float32, self.matrix_bfloat16)

    @property
    def conv(self) -> float:
        """Of the faster format."""
        return max(self.conv_float32, self.conv_bfloat16)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="smaller, in under a minute")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser


def compare(
    name: str,
    ours: Prepare,
    reference: Prepare,
    given: argparse.Namespace,
    floor_s: float = 0.0,
) -> Row:
    """Measure both in turn, each in a process of its own, and print the row."""
    with Worker(ours, given.threads) as mine, Worker(reference, given.threads) as theirs:
        first, *rounds = [(mine.run(), theirs.run()) for _ in range(1 + given.rounds)]
    return row_of(name, rounds, floor_s, [first])


def row_of(
    name: str,
    rounds: Sequence[tuple["Measured", "Measured"]],
    floor_s: float = 0.0,
    begun: Sequence[tuple["Measured", "Measured"]] = (),
) -> Row:
    """The row of what was measured, ours and the reference in each round; printed.

    Args:
        begun: rounds before them, of which the memory counts and the time does not.
    """
    ratios = sorted(other.seconds / own.seconds for own, other in rounds)
    row = Row(
        name=name,
        ratio=median(ratios),
        spread=(ratios[0], ratios[-1]),
        cpu_ratio=median(other.cpu_s / own.cpu_s for own, other in rounds),
        ours_s=median(own.seconds for own, _ in rounds),
        reference_s=median(other.seconds for _, other in rounds),
        floor_s=floor_s,
        ours_peak_mb=max(own.peak_mb for own, _ in [*begun, *rounds]),
        reference_peak_mb=max(other.peak_mb for _, other in [*begun, *rounds]),
    )
    print(_line(row), flush=True)
    return row


def _line(row: Row) -> str:
    floor = f", floor {row.floor_s:.3f} s (x {row.ours_s / row.floor_s:.1f})" if row.floor_s else ""
    return (
        f"{row.name:<24} {row.ratio:5.2f} times faster [{row.spread[0]:.2f}, {row.spread[1]:.2f}], "
        f"processor time {row.cpu_ratio:5.2f}; ours {row.ours_s:.3f} s, {row.ours_peak_mb:.0f} MB; "
        f"reference {row.reference_s:.3f} s, {row.reference_peak_mb:.0f} MB{floor}"
    )


def finish(rows: Sequence[Row], given: argparse.Namespace) -> None:
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


@dataclass(frozen=True)
class Measured:
    """A call of a work, or the mean of some."""

    seconds: float
    cpu_s: float
    peak_mb: float


class Worker:
    """A process that does one work whenever it is asked to."""

    def __init__(self, prepare: Prepare, num_threads: int) -> None:
        # Forked from a process that has imported what the benchmark does, and run nothing.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([Path(sys.argv[0]).stem])
        self._pipe, end = context.Pipe()
        self._process = context.Process(target=_serve, args=(prepare, num_threads, end))
        self._process.start()
        end.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()
        self._process.join()

    def run(self) -> Measured:
        try:
            self._pipe.send(None)
            return self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise RuntimeError(
                "a process that was measured has ended, see above what it said"
            ) from error


def _serve(prepare: Prepare, num_threads: int, pipe: Any) -> None:
    torch.set_num_threads(num_threads)
    work = prepare()
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send(measure(work, LONG_ENOUGH_S))


def measure(work: Callable[[], Any], at_least_s: float = 0.0) -> Measured:
    """Time and memory of a call, repeated until so much time has passed; the peak is counted anew
    (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    held = _status_mb("VmRSS")
    cpu, start = time.process_time(), time.perf_counter()
    num, seconds = 0, 0.0
    while not num or seconds < at_least_s:
        work()
        num, seconds = num + 1, time.perf_counter() - start
    cpu_s = time.process_time() - cpu
    return Measured(seconds / num, cpu_s / num, _status_mb("VmHWM") - held)


def _status_mb(name: str) -> float:
    line = next(
        row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(name)
    )
    return int(line.split()[1]) * 1024 / MEGABYTE


def measured_rates(num_threads: int) -> Rates:
    """This machine's rates now, printed; the best of a few tries, since a floor is a floor."""
    torch.set_num_threads(num_threads)
    with torch.inference_mode():
        rates = Rates(
            *(_matrix_rate(dtype) for dtype in (torch.float32, torch.bfloat16)),
            *(_conv_rate(dtype) for dtype in (torch.float32, torch.bfloat16)),
            _bandwidth(),
        )
    print(
        f"{num_threads} threads: products {rates.matrix_float32 / 1e9:.0f} GFLOP/s in float32, "
        f"{rates.matrix_bfloat16 / 1e9:.0f} in bfloat16; convolutions "
        f"{rates.conv_float32 / 1e9:.0f} and {rates.conv_bfloat16 / 1e9:.0f}; copies "
        f"{rates.bandwidth / 1e9:.0f} GB/s"
    )
    return rates


def _matrix_rate(dtype: torch.dtype, side: int = 2048) -> float:
    left, right = torch.randn(2, side, side).to(dtype)
    return 2 * side**3 / _fastest(partial(torch.mm, left, right.T))


def _conv_rate(dtype: torch.dtype, dim: int = 64, side: int = 256) -> float:
    last = torch.channels_last
    picture = torch.randn(1, dim, side, side).to(dtype, memory_format=last)
    kernel = torch.randn(dim, dim, 3, 3).to(dtype, memory_format=last)
    operations = 2 * dim * dim * 9 * side * side
    return operations / _fastest(partial(F.conv2d, picture, kernel, padding=1))


def _bandwidth(num: int = 2**25) -> float:
    source, target = torch.randn(2, num)
    return 2 * 4 * num / _fastest(partial(target.copy_, source))


def _fastest(work: Callable[[], Any], num_tries: int = 7) -> float:
    return min(measure(work).seconds for _ in range(num_tries))
