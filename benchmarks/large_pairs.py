"""Preprocessing of large pairs: cost of a pair by part, memory over the pairs, and a restart.

python benchmarks/large_pairs.py --out DIR [--pairs 200] [--pictures PHOTOS] [--json FILE]

Each pair is a mosaic of photographs as a wide picture of 3024x4032, and as a tele picture of its
middle that is as large, turned and noisy; both are JPEGs. A quarter of the pairs has new mosaics,
the others are mirror images of them. The parts are measured on a few pairs in one process, the
memory of Ray's tasks while the command itself runs on all. `--out` keeps the pairs: a second call
makes only what is not there yet.
"""

import argparse
import cProfile
import json
import logging
import pstats
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _checkout  # noqa: F401
import cv2
import numpy as np
import psutil
from search import make_pair, read_photos

from pipelines.preprocess import PreprocessOptions, preprocess
from sddusr import storage
from sddusr.config.arguments import parse_args
from sddusr.data.layouts import find
from sddusr.data.prepare import make_shard, plan_shards

HEIGHT, WIDTH = 3024, 4032
MIRRORED = (None, 0, 1, -1)
"""Ways to flip a mosaic; each counts as a pair."""
TELE_DEGREES, TELE_ZOOM, TELE_NOISE, QUALITY = 0.8, 1.03, 1.5, 95
WRITE = "write the shard, compressed"
PARTS = {
    "decode": "read_rgb",
    "register": "prepare_pair",
    "make LR": "halve",
    "detail map": "detail_map",
    WRITE: "write_shard",
}
"""The function of each part. A shard is loaded while it is written, so the other parts are taken
off the last one."""
PROFILED = 4
"""Pairs that the parts are measured on."""
WATCH_S, TASKS = 5.0, "ray::Map"
"""How often memory is looked at, and how the names of Ray Data's processes begin."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--pictures", type=Path, help="photographs below a folder instead")
    parser.add_argument("--json", type=Path)
    given = parse_args(parser)
    logging.basicConfig(level=logging.INFO)
    root = given.out / "pairs"
    make_pairs(root / "train", given.pairs, given.pictures)
    figures: dict[str, Any] = {"pairs": given.pairs, "parts_s": parts(str(root))}
    for name in ("all", "again"):
        figures[name] = through_ray(str(root), str(given.out / "shards"))
        print(name, json.dumps(figures[name]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


def make_pairs(root: Path, num: int, pictures: Path | None) -> None:
    photos = read_photos(pictures)
    for seed in range(-(-num // len(MIRRORED))):
        flips = MIRRORED[: num - seed * len(MIRRORED)]
        names = [f"{seed:04d}-{index}.jpg" for index in range(len(flips))]
        if all((root / "tele" / name).exists() for name in names):
            continue
        pair = make_pair(photos, HEIGHT, WIDTH, seed)
        for name, flip in zip(names, flips, strict=True):
            wide, ref = (
                x if flip is None else np.asarray(cv2.flip(x, flip)) for x in (pair.lr, pair.ref)
            )
            _write(root / "wide" / name, wide)
            _write(root / "tele" / name, _as_another_lens_sees_it(ref, seed))


def _as_another_lens_sees_it(ref: np.ndarray, seed: int) -> np.ndarray:
    height, width = ref.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), TELE_DEGREES, TELE_ZOOM)
    turned = cv2.warpAffine(
        ref, turn, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    noise = np.random.default_rng(seed).normal(0, TELE_NOISE, turned.shape)
    return np.clip(turned + noise, 0, 255).round().astype(np.uint8)


def _write(path: Path, picture: np.ndarray) -> None:
    """Whole or not at all: a call that was cut off leaves no half pair to be found by the next."""
    data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    storage.write_atomic(str(path), data.tobytes())


def options(root: str, out: str) -> PreprocessOptions:
    return PreprocessOptions(layout="pairs", root=root, out=out, pictures_per_shard=1)


def parts(root: str) -> dict[str, float]:
    """Seconds of a process for each part of a pair, in the mean over a few."""
    profile = cProfile.Profile(time.process_time)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        given = options(root, folder)
        plans = plan_shards(find(given.layout, root).sources, given.recipe, 1)[:PROFILED]
        for plan in plans:
            report = profile.runcall(make_shard, plan, given.job)
            if report.error:
                raise ValueError(report.error)
    total = (time.process_time() - started) / len(plans)
    timings = pstats.Stats(profile).stats  # pyright: ignore[reportAttributeAccessIssue]
    cumulative = {place[2]: timing[3] for place, timing in timings.items() if "sddusr" in place[0]}
    seconds = {part: cumulative[name] / len(plans) for part, name in PARTS.items()}
    seconds[WRITE] -= sum(taken for part, taken in seconds.items() if part != WRITE)
    seconds["processor time in all"] = total
    for part, value in seconds.items():
        print(f"{part:30} {value:6.2f} s a pair", flush=True)
    return seconds


def through_ray(root: str, out: str) -> dict[str, float | list[int]]:
    """The command itself: its time, and processor time and memory of its tasks."""
    started = time.monotonic()
    with _watched_tasks() as watched:
        manifest = preprocess(options(root, out))
    took, samples = time.monotonic() - started, watched.largest_mb or [0.0]
    tenths = np.array_split(np.array(samples), min(10, len(samples)))
    return {
        "seconds": took,
        "processor_s_of_tasks": sum(watched.processor_s.values()),
        "megabytes": sum(shard["num_bytes"] for shard in manifest["shards"]) / 1e6,
        "largest_task_mb_by_tenth": [round(float(tenth.max())) for tenth in tenths],
    }


@dataclass
class Watched:
    """What Ray's workers took."""

    largest_mb: list[float] = field(default_factory=list)
    """Own memory of the largest one, every few seconds."""
    processor_s: dict[int, float] = field(default_factory=dict)
    """Of each process, when it was last seen."""


@contextmanager
def _watched_tasks() -> Iterator[Watched]:
    watched, ended = Watched(), threading.Event()
    before = dict[int, float]()  # of processes that an earlier call has left in the cluster
    dict(_tasks(before))

    def watch() -> None:
        while not ended.wait(WATCH_S):
            sizes = dict(_tasks(watched.processor_s))
            watched.largest_mb += [max(sizes.values())] if sizes else []

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield watched
    finally:
        ended.set()
        watcher.join()
        for pid in before.keys() & watched.processor_s.keys():
            watched.processor_s[pid] -= before[pid]


def _tasks(processor_s: dict[int, float]) -> Iterator[tuple[int, float]]:
    """Own megabytes of each process that runs tasks; its processor time is put into the table."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            if process.name().startswith(TASKS):
                memory, times = process.memory_info(), process.cpu_times()
                processor_s[process.pid] = times.user + times.system
                yield process.pid, (memory.rss - memory.shared) / 1e6


if __name__ == "__main__":
    main()
