"""Training batches from shards: how fast, how long a step waits for them, in how much memory.

The upper bound is a loop over one batch that is there already. A step is simulated by sleeping: on
a GPU the processor is free meanwhile. Reading checks every page's checksum, as training does.

python benchmarks/ingest.py [--data DIR] [--quick]
"""

import argparse
import json
import multiprocessing as mp
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch

from sddusr.config import PAPER
from sddusr.config.arguments import parse_args
from sddusr.data.dataset import ShardSet
from sddusr.data.detail import detail_map, detail_quantiles
from sddusr.data.manifest import build_manifest, write_manifest
from sddusr.data.shard import write_shard
from sddusr.data.stream import BatchStream
from sddusr.geometry.box import whole
from sddusr.inference.memory import MEGABYTE, held_bytes, peak_bytes
from sddusr.types import Batch, Triplet

CPU = torch.device("cpu")
STEP_S = 0.1
NUM_WINDOWS, WINDOW_PX = 64, 256
BATCH_SIZE = PAPER.train.batch_size


def window(number: int) -> Triplet:
    """A training window of the default size with detail at several scales."""
    rng = np.random.default_rng(number)
    hr = np.zeros((2 * WINDOW_PX, 2 * WINDOW_PX, 3), np.float32)
    for cell, strength in ((64, 60), (8, 30), (1, 6)):
        side = 2 * WINDOW_PX // cell
        noise = rng.normal(0, strength, (side, side, 3)).astype(np.float32)
        hr += cv2.resize(noise, hr.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    hr = np.clip(128 + hr, 0, 255).astype(np.uint8)
    detail = detail_map(hr)
    return Triplet(
        id=f"window-{number}",
        scene=f"window-{number}",
        split="train",
        lr=cv2.resize(hr, (WINDOW_PX, WINDOW_PX), interpolation=cv2.INTER_AREA),
        ref=hr,
        hr=hr,
        detail=detail,
        detail_quantiles=detail_quantiles(detail),
        center_box=whole(*hr.shape[:2]),
        provenance={},
    )


def make_shards(root: str, num_windows: int = NUM_WINDOWS) -> None:
    entries = [
        write_shard(
            f"{root}/train-{start:05d}.parquet",
            "train",
            (window(start + i) for i in range(16)),
            {},
        )
        for start in range(0, num_windows, 16)
    ]
    write_manifest(root, build_manifest(entries, {}, {}))


def loop(batches: Callable[[], Batch], num_steps: int, step_s: float) -> float:
    """Seconds of so many steps."""
    started = time.perf_counter()
    for _ in range(num_steps):
        batches()
        time.sleep(step_s)
    return time.perf_counter() - started


def measure(root: str, rank: int, world: int, num_steps: int, answers: Any) -> None:
    """One rank's share; what it measured is put into a queue."""
    before = held_bytes(CPU)
    started = time.perf_counter()
    share = BATCH_SIZE // world
    config = {"seed": 0, "batch_size": BATCH_SIZE, "rank": rank, "world": world}
    with BatchStream(ShardSet(root), PAPER.data, split="train", **config) as stream:
        first = next(stream)
        first_s = time.perf_counter() - started
        loop(lambda: next(stream), 4, 0)
        free_s = loop(lambda: next(stream), num_steps, 0)
        waited_before = stream.wait_s
        stepped_s = loop(lambda: next(stream), num_steps, STEP_S)
        waited_s = stream.wait_s - waited_before
    bound_s = loop(lambda: first, num_steps, STEP_S)
    answers.put(
        {
            "first_batch_s": first_s,
            "samples_per_s": share * num_steps / free_s,
            "wait_share": waited_s / stepped_s,
            "speed_of_bound": bound_s / stepped_s,
            "peak_mb": (peak_bytes(CPU) - before) / MEGABYTE,
        }
    )


def run(root: str, world: int, num_steps: int) -> dict[str, float]:
    """All ranks at once, each in a process; sums of samples, the worst of the rest."""
    context = mp.get_context("spawn")
    answers = context.Queue()
    processes = [
        context.Process(target=measure, args=(root, rank, world, num_steps, answers))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    rows = [answers.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    worst = {"speed_of_bound": min, "samples_per_s": sum}
    return {name: worst.get(name, max)(row[name] for row in rows) for name in rows[0]}


def report(world: int, rounds: list[dict[str, float]]) -> dict[str, Any]:
    middle = {name: median(row[name] for row in rounds) for name in rounds[0]}
    waits = sorted(row["wait_share"] for row in rounds)
    print(
        f"{world} rank(s): {middle['samples_per_s']:.0f} samples/s; with steps of {STEP_S} s "
        f"{middle['speed_of_bound']:.1%} of the bound's speed, waits {middle['wait_share']:.2%} "
        f"[{waits[0]:.2%}, {waits[-1]:.2%}]; first batch after {middle['first_batch_s']:.2f} s; "
        f"{middle['peak_mb']:.0f} MB more at the peak"
    )
    return {"name": f"ingest/{world}", **middle}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="shards of preprocess.py; by default 64 made windows")
    parser.add_argument("--quick", action="store_true", help="one round of few steps")
    parser.add_argument("--json", type=Path, help="write the rows here")
    args = parse_args(parser)
    num_rounds, num_steps = (1, 20) if args.quick else (3, 100)
    with tempfile.TemporaryDirectory() as folder:
        if args.data is None:
            make_shards(folder)
        rows = [
            report(world, [run(args.data or folder, world, num_steps) for _ in range(num_rounds)])
            for world in (1, 2)
        ]
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
