"""The ways to search for keys beside the exact one: time, memory, confidence, output, growth.

Each row is one way at one size, on one thread, with the network that ships and its own masks. The
pictures are scikit-image's photographs, mirrored and enlarged into a mosaic without a period, or
those of `--pictures DIR`. Each is blurred, halved and given noise to make LR; its middle is Ref.

- `speedup`, `confidence_ratio`: against our own exact search with the same masks. Above
  `--exact-megapixels` of LR the exact search answers `NUM_SAMPLED` queries, and its time is theirs
  times the number of queries; `exact_is_sampled` says so.
- `confidence_ratio`: of the mean confidence outside the centre.
- `psnr_to_exact`: of the output, where the exact search was run whole; else null.
"""

import json
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import skimage
import torch
from _timing import arguments, measure
from jaxtyping import Float, Int
from torch import Tensor

from sddusr import pretrained
from sddusr.checkpoint import load_model
from sddusr.config import SCALE
from sddusr.config.arguments import parse_args
from sddusr.geometry.box import HR_PER_CELL, Box, align_ref, centered, crop, to_lr, whole
from sddusr.imaging.images import read_rgb
from sddusr.inference import super_resolve
from sddusr.inference.precompute import Inputs, center_place, matching_features
from sddusr.model.matching.fast_search import MatchingMode
from sddusr.model.matching.matcher import Search, SparseMatching
from sddusr.model.matching.nearest_key import KeySearch
from sddusr.model.matching.patches import PatchTable
from sddusr.model.matching.twins import CenterPlace, find_twins
from sddusr.model.sddusr import SDDuSR

SIZES = ((320, 448), (640, 896), (1280, 1792), (2048, 2688), (3024, 4032))
"""Height and width of LR."""

NUM_QUICK = 3
"""Sizes of `--quick`; the last is 1280x1792."""

NAMES = ("astronaut", "coffee", "chelsea", "rocket", "retina")

WAYS: tuple[MatchingMode, ...] = ("fast", "auto")

NUM_SAMPLED = 1000


@dataclass(frozen=True)
class Row:
    """One way at one size, as `--json` writes it."""

    name: str
    """`way@size`."""
    seconds: float
    exact_seconds: float
    speedup: float
    confidence_ratio: float
    guard_ratio: float | None
    """What the search itself measured; None: it was exact."""
    psnr_to_exact: float | None
    """None: the exact output was not made, or is the same bit for bit."""
    peak_mb: float
    """Over the inputs."""
    exact_is_sampled: bool
    num_queries: int
    """Outside the centre and kept by the mask."""
    num_keys: int


class Pair(NamedTuple):
    """Inputs of a picture."""

    lr: np.ndarray
    ref: np.ndarray
    box: Box


class Exact(NamedTuple):
    """What the exact search gave at some cells."""

    seconds: float
    cells: Int[Tensor, "q"]
    score: Float[Tensor, "q"]
    is_sampled: bool


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pictures", type=Path, help="photographs below a folder instead")
    parser.add_argument("--exact-megapixels", type=float, default=2.5)
    parser.add_argument("--no-output", action="store_true", help="searches alone, no pictures")
    parser.set_defaults(threads=1)
    given = parse_args(parser)
    torch.set_num_threads(given.threads)
    model = load_model(pretrained.COMPACT).eval()
    photos = read_photos(given.pictures)
    rows = [
        row
        for size in SIZES[: NUM_QUICK if given.quick else None]
        for row in compare(model, make_pair(photos, *size), given)
    ]
    print_growth(rows)
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def read_photos(root: Path | None) -> list[np.ndarray]:
    if root is None:
        return [getattr(skimage.data, name)() for name in NAMES]
    places = sorted(path for path in root.rglob("*") if path.suffix in (".jpg", ".png"))
    if not places:
        raise SystemExit(f"{root} holds no .jpg or .png")
    return [read_rgb(str(path)).pixels for path in places]


def make_pair(photos: list[np.ndarray], height: int, width: int, seed: int = 0) -> Pair:
    """LR of this size, and Ref of its middle, half as wide and high."""
    hr = mosaic(photos, SCALE * height, SCALE * width, seed)
    rng = np.random.default_rng(seed)
    blurred = cv2.GaussianBlur(hr.astype(np.float32), (0, 0), 0.9)
    lr = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_AREA)
    lr = np.clip(lr + rng.normal(0, 1.5, lr.shape), 0, 255).round().astype(np.uint8)
    box = centered(height, width, whole(*hr.shape[:2]))
    return Pair(lr, np.ascontiguousarray(crop(hr, box)), box)


def mosaic(photos: list[np.ndarray], height: int, width: int, seed: int) -> np.ndarray:
    """Photographs side by side, each mirrored, turned and scaled by chance, so none repeats."""
    rng = np.random.default_rng(seed)
    canvas = np.empty((height, width, 3), np.uint8)
    side = 1024
    for y in range(0, height, side):
        for x in range(0, width, side):
            photo = photos[rng.integers(len(photos))]
            photo = np.rot90(photo, rng.integers(4))[:, :: rng.choice([-1, 1])]
            scale = side / min(photo.shape[:2]) * rng.uniform(1.0, 1.6)
            kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
            large = cv2.resize(
                np.ascontiguousarray(photo), None, fx=scale, fy=scale, interpolation=kind
            )
            gain, shift = rng.uniform(0.8, 1.2, 3), rng.uniform(-12, 12, 3)
            part = canvas[y : y + side, x : x + side]
            y0, x0 = (
                int(rng.integers(have - need + 1))
                for have, need in zip(large.shape, part.shape[:2], strict=False)
            )
            cut = large[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]]
            part[:] = np.clip(cut * gain + shift, 0, 255)
    return canvas


@torch.inference_mode()
def compare(model: SDDuSR, pair: Pair, given: Namespace) -> Iterator[Row]:
    """The rows of one size."""
    height, width = pair.lr.shape[:2]
    is_sampled = height * width > 1e6 * given.exact_megapixels
    case = case_of(model, pair)
    fast = timed(case, "fast")
    cells = outside(fast.result, pair.box)
    exact = sampled_search(case, fast.result, cells) if is_sampled else exact_search(case, cells)
    exact_sr = None if is_sampled or given.no_output else output(model, pair, "exact")
    for way in WAYS:
        found = fast if way == "fast" else timed(case, way)
        score = found.result.confidence.flatten()[exact.cells]
        row = Row(
            name=f"{way}@{height}x{width}",
            seconds=found.seconds,
            exact_seconds=exact.seconds,
            speedup=exact.seconds / found.seconds,
            confidence_ratio=float(score.double().mean() / exact.score.double().mean()),
            guard_ratio=found.result.confidence_ratio,
            psnr_to_exact=None
            if exact_sr is None
            else psnr_between(output(model, pair, way), exact_sr),
            peak_mb=found.peak_mb,
            exact_is_sampled=exact.is_sampled,
            num_queries=len(cells),
            num_keys=len(key_cells(case, fast.result)),
        )
        print(describe(row), flush=True)
        yield row


class Case(NamedTuple):
    """What is searched in."""

    matching: SparseMatching
    query_feat: Float[Tensor, "1 d hq wq"]
    key_feat: Float[Tensor, "1 d hk wk"]
    place: CenterPlace


class Timed(NamedTuple):
    """A search and what it took."""

    result: Search
    seconds: float
    """Of processor time, since the machine may be busy; one thread."""
    peak_mb: float


def case_of(model: SDDuSR, pair: Pair) -> Case:
    aligned = align_ref(pair.ref, pair.box)
    center = crop(pair.lr, to_lr(aligned.box))
    inputs = Inputs(pair.lr, center, aligned.ref, torch.device("cpu"))
    features = matching_features(model, inputs)
    return Case(model.matching, *features, center_place(model, aligned.box))


def timed(case: Case, mode: MatchingMode) -> Timed:
    results: list[Search] = []
    search = partial(case.matching.search, case.query_feat, case.key_feat, None, mode, case.place)
    cost = measure(lambda: results.append(search()))
    return Timed(results[-1], cost.cpu_s, cost.peak_mb)


def exact_search(case: Case, cells: Int[Tensor, "q"]) -> Exact:
    found = timed(case, "exact")
    return Exact(found.seconds, cells, found.result.confidence.flatten()[cells], False)


def sampled_search(case: Case, found: Search, cells: Int[Tensor, "q"]) -> Exact:
    """The exact search of some queries, and what it would take for all that have no twin."""
    keys = key_cells(case, found)
    asked = (found.weight.flatten() > 0).nonzero().squeeze(1)
    num_searched = len(find_twins(case.place, case.query_feat[0], keys, asked)[1])
    index = KeySearch(PatchTable(case.key_feat[0]).at(keys))
    order = torch.randperm(len(cells), generator=torch.Generator().manual_seed(1))
    drawn = cells[order[:NUM_SAMPLED]]
    query = PatchTable(case.query_feat[0]).at(drawn)
    start = time.process_time()
    best = index.best(query)
    seconds = (time.process_time() - start) * num_searched / len(drawn)
    return Exact(seconds, drawn, best.score, True)


def outside(found: Search, box: Box) -> Int[Tensor, "q"]:
    """Flat indices of the searching cells outside the centre."""
    asks = found.weight[0, 0] > 0
    y0, y1, x0, x1 = (edge // HR_PER_CELL for edge in box)
    asks[y0:y1, x0:x1] = False
    return asks.flatten().nonzero().squeeze(1)


def key_cells(case: Case, found: Search) -> Int[Tensor, "k"]:
    if found.key_mask is None:
        return torch.arange(case.key_feat[0, 0].numel())
    return found.key_mask.flatten().nonzero().squeeze(1)


def output(model: SDDuSR, pair: Pair, way: MatchingMode) -> np.ndarray:
    return super_resolve(model, *pair, matching=way).sr


def psnr_between(one: np.ndarray, other: np.ndarray) -> float | None:
    error = float(np.square(one - other, dtype=np.float64).mean())
    return -10 * np.log10(error) if error else None


def describe(row: Row) -> str:
    psnr = "" if row.psnr_to_exact is None else f", {row.psnr_to_exact:.1f} dB to exact"
    sampled = " (of a sample)" if row.exact_is_sampled else ""
    return (
        f"{row.name:<18} {row.seconds:8.1f} s, exact {row.exact_seconds:8.1f} s{sampled}: "
        f"{row.speedup:6.1f} times faster, confidence {row.confidence_ratio:.5f}{psnr}, "
        f"{row.peak_mb:.0f} MB; {row.num_queries} queries, {row.num_keys} keys"
    )


def print_growth(rows: list[Row]) -> None:
    """Exponents of time and memory in queries, of each way."""
    for way in WAYS:
        own = [row for row in rows if row.name.startswith(f"{way}@")]
        if len(own) < 2:
            continue
        size = np.log([row.num_queries for row in own])
        time, exact, memory = (
            np.polyfit(size, np.log([getattr(row, of) for row in own]), 1)[0]
            for of in ("seconds", "exact_seconds", "peak_mb")
        )
        print(
            f"{way}: time grows with the power {time:.2f} (exact {exact:.2f}), memory {memory:.2f}"
        )


if __name__ == "__main__":
    main()
