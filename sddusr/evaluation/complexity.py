"""Tables 3 and 4 of the paper, what the network costs: `python -m sddusr.evaluation.complexity`."""

import argparse
import math
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from sddusr.checkpoint import load_model
from sddusr.config import LR_PER_CELL, PRESETS, SCALE
from sddusr.config.arguments import parse_args
from sddusr.data.dataset import ShardSet
from sddusr.geometry.box import centered, snap_box, whole
from sddusr.inference import Matches, super_resolve
from sddusr.inference.memory import peak_bytes
from sddusr.model.precision import Precision, native_precision
from sddusr.model.sddusr import SDDuSR, num_parameters

PAPER_DIM = 64
"""Numbers of a patch in the paper's arithmetic: it counts (2·64 − 1) operations a pair."""

PATCH_DIM = 144
"""What a patch really has: 3x3 positions of 16 channels."""


class Dataset(NamedTuple):
    """Size of a data set's HR pictures, and Table 3's figures for it."""

    name: str
    width: int
    height: int
    paper_dense: int
    paper_sparse: int


DATASETS = (
    Dataset("DuSR-Real", 1792, 896, 319, 222),
    Dataset("CameraFusion-Real", 3584, 2560, 10440, 7079),
    Dataset("RealMCVSR-Real", 1792, 896, 319, 229),
)


@dataclass(frozen=True)
class MatchingCost:
    """Search of the centre (half the width and height) from every cell of a picture."""

    num_queries: int
    num_keys: int

    @classmethod
    def of(cls, width: int, height: int) -> "MatchingCost":
        """For HR pixels: a cell is 4x4 of them, and the centre a quarter of the cells."""
        cell = SCALE * LR_PER_CELL
        num_queries = (width // cell) * (height // cell)
        return cls(num_queries, (width // cell // 2) * (height // cell // 2))

    @property
    def paper_gflop(self) -> float:
        """(2·64 − 1) operations a pair, as Table 3 counts."""
        return (2 * PAPER_DIM - 1) * self.num_queries * self.num_keys / 1e9

    @property
    def true_gflop(self) -> float:
        """A multiplication and an addition for each of a patch's 144 numbers."""
        return 2 * PATCH_DIM * self.num_queries * self.num_keys / 1e9


class Kept(NamedTuple):
    """Shares of cells that the masks keep, and of the pairs that are then compared."""

    queries: float
    keys: float
    pairs: float


def measure_kept(model: SDDuSR, shards: ShardSet, split: str) -> Kept:
    """Mean shares over the pictures of a split.

    Raises:
        ValueError: no picture, or a network without masks.
    """
    shares = []
    for triplet in shards.iterate(split):
        matches = super_resolve(model, triplet.lr, triplet.ref, triplet.center_box).matches
        if matches.query_mask is None:
            raise ValueError("the checkpoint's network matches densely, it has no masks")
        shares.append(kept_shares(matches))
    if not shares:
        raise ValueError(f"{shards.root}: no picture in split {split}")
    return Kept(*(sum(column) / len(shares) for column in zip(*shares, strict=True)))


def kept_shares(matches: Matches) -> Kept:
    """What one picture's masks kept; all of it where matching is dense."""
    queries, keys = (
        1.0 if mask is None else float(mask.mean())
        for mask in (matches.query_mask, matches.key_mask)
    )
    return Kept(queries, keys, queries * keys)


@contextmanager
def fixed_masks(model: SDDuSR, share: float) -> Iterator[None]:
    """Masks that keep `share` of the cells, drawn evenly: an untrained mask keeps all or none."""
    generator = model.matching.mask_generator
    if generator is None:
        yield
        return

    def keep(features: Tensor) -> Tensor:
        _, _, height, width = features.shape
        drawn = torch.rand(height, width, generator=torch.Generator().manual_seed(0))
        return (drawn < share).expand(len(features), 1, height, width).to(features.device)

    with patch.object(generator, "keep", keep):
        yield


def parameters_by_part(model: SDDuSR) -> dict[str, int]:
    """Learned numbers of each part of the network; the parts' inner networks apart."""
    parts = {name: num_parameters(part) for name, part in model.named_children()}
    inner = {
        "alignment": {"spynet": model.alignment.spynet},
        "matching": {"vgg": model.matching.features.vgg},
    }
    for outer, children in inner.items():
        for name, child in children.items():
            parts[f"{outer}.{name}"] = num_parameters(child)
            parts[outer] -= parts[f"{outer}.{name}"]
    return dict(sorted(parts.items()))


class Latency(NamedTuple):
    """One picture through the network."""

    seconds: float
    peak_mb: float
    precision: Precision
    """The fastest that the device computes itself."""
    device: str
    kept: Kept
    """Shares of cells in the search; 1 where it is dense."""


def measure_latency(model: SDDuSR, height: int, width: int) -> Latency:
    """Best of two runs on an LR picture of `height` x `width`, with a centre of half its sides."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    pixels = np.random.default_rng(0)
    lr = pixels.integers(256, size=(height, width, 3), dtype=np.uint8)
    box = snap_box(centered(height, width, whole(SCALE * height, SCALE * width)))
    ref = pixels.integers(256, size=(box.height, box.width, 3), dtype=np.uint8)
    seconds, precision, kept = [], native_precision(device), Kept(1.0, 1.0, 1.0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        start = time.perf_counter()
        matches = super_resolve(model, lr, ref, box, precision).matches
        seconds.append(time.perf_counter() - start)
        kept = kept_shares(matches)
    if device.type == "cuda":
        peak_mb = torch.cuda.max_memory_allocated() / 2**20
        return Latency(min(seconds), peak_mb, precision, torch.cuda.get_device_name(), kept)
    cores = f"{torch.get_num_threads()} cores, {platform.machine()}"
    return Latency(min(seconds), peak_bytes(device) / 2**20, precision, cores, kept)


def measure_latencies(model: SDDuSR, height: int, width: int) -> list[Latency]:
    """Of an untrained network: searching densely, and with masks that keep the paper's share."""
    data, shares = DATASETS[0], [1.0]
    if model.matching.mask_generator is not None:
        shares.append(math.sqrt(data.paper_sparse / data.paper_dense))
    found = []
    for share in reversed(shares):  # a process's peak never falls: the smaller one comes first
        with fixed_masks(model, share):
            found.insert(0, measure_latency(model, height, width))
    return found


def table_3(kept: Kept | None = None) -> str:
    """Matching cost in GFLOP: the paper's arithmetic beside the true one, dense and sparse.

    Without `kept`, the sparse columns are the paper's own figures and what they imply.
    """
    source = "the paper's figures" if kept is None else "this checkpoint's masks"
    rows = [
        [
            "data set",
            "queries",
            "keys",
            "dense",
            "true dense",
            "sparse",
            "true sparse",
            "pairs kept",
        ]
    ]
    for data in DATASETS:
        cost = MatchingCost.of(data.width, data.height)
        share = data.paper_sparse / data.paper_dense if kept is None else kept.pairs
        rows.append(
            [
                f"{data.name} {data.width}x{data.height}",
                f"{cost.num_queries}",
                f"{cost.num_keys}",
                f"{int(cost.paper_gflop)}",
                f"{cost.true_gflop:.0f}",
                f"{share * data.paper_dense:.0f}",
                f"{share * cost.true_gflop:.0f}",
                f"{share:.1%}",
            ]
        )
    notes = [
        "dense, sparse: (2*64-1) operations a pair, as the paper counts; "
        "true: 2*144, what a patch of 3x3x16 costs",
        f"shares kept are {source}",
    ]
    if kept is not None:
        notes.append(f"kept queries {kept.queries:.1%}, kept keys {kept.keys:.1%}")
    return "\n".join(["Table 3: matching cost, GFLOP", aligned(rows), *notes])


def table_4(model: SDDuSR, latencies: Sequence[Latency], height: int, width: int) -> str:
    """Parameters by part, and the time and memory of one picture on this machine."""
    parts = parameters_by_part(model)
    rows = [[name, f"{count:,}"] for name, count in parts.items()]
    rows.append(["total", f"{sum(parts.values()):,}"])
    lines = ["Table 4: parameters", aligned(rows), f"{sum(parts.values()) / 1e6:.2f} M"]
    for latency in latencies:
        lines.append(
            f"{latency.seconds:.2f} s and {latency.peak_mb:.0f} MB for an LR picture of "
            f"{height}x{width} in {latency.precision} on {latency.device}, searching "
            f"{latency.kept.queries:.1%} of the cells among {latency.kept.keys:.1%} of the keys"
        )
    return "\n".join(lines)


def aligned(rows: Iterable[list[str]]) -> str:
    """Rows as columns: the first flush left, the others flush right."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sddusr.evaluation.complexity", description=__doc__
    )
    parser.add_argument("--preset", choices=PRESETS, default="paper", help="network to count")
    parser.add_argument("--checkpoint", help="network to count and whose masks to measure")
    parser.add_argument("--data", help="shards to measure kept shares on, with --checkpoint")
    parser.add_argument("--split", default="test", help="pictures of --data (default: test)")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), default=(448, 896),
                        help="LR picture to time (default: DuSR-Real's)")  # fmt: skip
    parser.add_argument("--no-latency", action="store_true", help="count only, time nothing")
    args = parse_args(parser)
    if (args.data is None) != (args.checkpoint is None):
        parser.error("--checkpoint and --data go together: masks need pictures and pictures a mask")
    try:
        model = load_model(args.checkpoint) if args.checkpoint else build_untrained(args.preset)
        kept = measure_kept(model, ShardSet(args.data), args.split) if args.data else None
        if any(side < 8 or side % 4 for side in args.size):
            raise ValueError(f"--size is {args.size}, need multiples of 4, 8 or more")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(table_3(kept), end="\n\n")
    latencies: list[Latency] = []
    if not args.no_latency:
        latencies = ([measure_latency(model, *args.size)] if args.checkpoint
                     else measure_latencies(model, *args.size))  # fmt: skip
    print(table_4(model, latencies, *args.size))


def build_untrained(preset: str) -> SDDuSR:
    """A preset's network before training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SDDuSR(PRESETS[preset][1].model)


if __name__ == "__main__":
    main()
