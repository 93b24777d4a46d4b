"""Preprocessing: a process beside the sum of its parts, two processes beside one, and its memory.

A part is what no way of making shards leaves out: decoding, the detail map (whose two resizes are
most of it), compressing, hashing and writing, each done alone over all pictures or windows.
"""

import hashlib
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import _checkout  # noqa: F401
import cv2
import numpy as np
import pyarrow as pa
from _network import textured
from _timing import Measured, Row, Worker, arguments, compare, finish, row_of

from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.ray_runtime import cluster
from sddusr.config.arguments import parse_args
from sddusr.data.detail import detail_map, detail_quantiles
from sddusr.data.layouts import find
from sddusr.data.prepare import make_shard, plan_shards, triplets_of
from sddusr.data.schema import to_record, update_digest
from sddusr.imaging.images import read_rgb
from sddusr.types import Triplet

HR_PX = 1024
NUM_FULL, NUM_QUICK = 24, 4
MANY_FULL, MANY_QUICK = 4, 2
"""How many times more pictures two processes share, so that Ray's start of a job counts little, and
memory is measured with, to see whether it grows."""
PICTURES_PER_SHARD = 2


def main() -> None:
    given = parse_args(arguments(__doc__))
    with tempfile.TemporaryDirectory() as folder:
        finish(run(given, Path(folder)), given)


def run(given: Namespace, folder: Path) -> list[Row]:
    num, times = (NUM_QUICK, MANY_QUICK) if given.quick else (NUM_FULL, MANY_FULL)
    root = make_pictures(folder / "pictures", num)
    many = make_pictures(folder / "many", num * times)
    alone = copy(given)
    alone.threads = 1
    rows = [
        compare("preprocess", partial(in_one_process, root, folder), partial(parts, root), alone),
        row_of(
            "preprocess/two-processes",
            [
                (through_ray(2, root, many, folder), through_ray(1, root, many, folder))
                for _ in range(1 if given.quick else given.rounds)
            ],
        ),
    ]
    tell_memory({num: root, num * times: many}, folder)
    return rows


def make_pictures(root: Path, num: int) -> str:
    """Triplets in folders, PNG; the first seven grow out of noise, the rest are turned copies."""
    for index in range(num):
        hr = textured(HR_PX, HR_PX, seed=index % 7).mul(255).byte().permute(1, 2, 0).numpy()
        hr = np.ascontiguousarray(np.rot90(hr, index // 7))
        lr = cv2.resize(hr, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        for name, picture in (("HR", hr), ("LR", lr), ("Ref", hr)):
            (root / "train" / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / "train" / name / f"{index:04d}.png"), picture)
    return str(root)


def options(root: str, out: str) -> PreprocessOptions:
    return PreprocessOptions(
        layout="folders", root=root, out=out, pictures_per_shard=PICTURES_PER_SHARD
    )


def in_one_process(root: str, folder: Path) -> Callable[[], Any]:
    """All shards, one after the other, without Ray.

    Args:
        folder: where they stay: deleting them takes a tenth of the time, and is not measured.
    """
    return partial(_all_shards, root, folder)


def _all_shards(root: str, folder: Path) -> None:
    given = options(root, tempfile.mkdtemp(dir=folder))
    sources = find(given.layout, root).sources
    for plan in plan_shards(sources, given.recipe, given.pictures_per_shard):
        report = make_shard(plan, given.job)
        if report.error:
            raise ValueError(report.error)


def parts(root: str) -> Callable[[], Any]:
    """The windows are cut once, before anything is measured."""
    given = options(root, "unused")
    sources = find(given.layout, root).sources
    files = sorted(str(path) for path in Path(root).rglob("*.png"))
    originals = [read_rgb(file).pixels for file in files if "HR" in Path(file).parts]
    plans = plan_shards(sources, given.recipe, given.pictures_per_shard)
    windows = [triplet for plan in plans for triplet in triplets_of(plan, given.job, {})]
    return partial(_parts, files, originals, windows)


def _parts(files: list[str], originals: list[np.ndarray], windows: list[Triplet]) -> None:
    for file in files:
        read_rgb(file)
    for hr in originals:
        detail_quantiles(detail_map(hr))
    codec = pa.Codec("zstd", compression_level=1)
    content, file_hash = hashlib.sha256(), hashlib.sha256()
    with tempfile.TemporaryFile() as file:
        for record in map(to_record, windows):
            update_digest(content, record)
            for column in _binary_columns(record):
                packed = codec.compress(column, asbytes=True)
                file_hash.update(packed)
                file.write(packed)


def _binary_columns(record: dict[str, Any]) -> Iterator[bytes]:
    return (column for column in record.values() if isinstance(column, bytes))


def through_ray(num_processes: int, few: str, many: str, folder: Path) -> Measured:
    """The command itself, by so many processes that have begun: they made the shards of `few`.

    Its cluster is alone: another one takes a tenth of a core even while it idles.
    """
    with Worker(partial(_begun, num_processes, few, many, folder), 1) as worker:
        return worker.run()


def _begun(num_processes: int, few: str, many: str, folder: Path) -> Callable[[], Any]:
    cluster.init_ray(num_cpus=num_processes)
    _preprocessed(few, folder)
    return partial(_preprocessed, many, folder)


def _preprocessed(root: str, folder: Path) -> None:
    preprocess(options(root, tempfile.mkdtemp(dir=folder)))
    spilled = [path for path in _spill_folders() if any(path.iterdir())]
    if spilled:
        raise RuntimeError(f"Ray spilled objects into {spilled}")


def _spill_folders() -> Iterator[Path]:
    import ray

    context = ray.get_runtime_context()
    session = Path(context.get_temp_dir(), context.get_session_name())
    return (path for path in session.glob("ray_spilled_objects*") if path.is_dir())


def tell_memory(roots: dict[int, str], folder: Path) -> None:
    """Peak of one process over few pictures and over many."""
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(partial(in_one_process, root, folder), 1))
            for root in roots.values()
        ]
        peaks = [(num, worker.run().peak_mb) for num, worker in zip(roots, workers, strict=True)]
    print("peak of one process: " + ", ".join(f"{n} pictures {mb:.0f} MB" for n, mb in peaks))


if __name__ == "__main__":
    main()
