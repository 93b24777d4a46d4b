#!/usr/bin/env python3
"""One HTML file of an evaluation, or of several to compare: tables, plots, before/after sliders.

python pipelines/report.py RESULTS [RESULTS ...] --out page.html
"""

import logging
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

if not __package__:  # a script of a checkout, in which only sddusr is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import pipelines  # noqa: F401  # names what is not installed

import tyro

from pipelines.reporting.page import Page, Pair, render
from pipelines.reporting.views import Evaluation, collect_views
from sddusr import storage
from sddusr.cli import command_line
from sddusr.evaluation.baselines import PASTE, UNSHARP
from sddusr.evaluation.results import ImageScores
from sddusr.evaluation.scoring import BICUBIC
from sddusr.evaluation.tables import read_tables

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Make one HTML file of results, to open anywhere: several results are compared.

    Everything is inside the file; it needs no network. Examples:

    python pipelines/report.py runs/evaluation --out page.html

    python pipelines/report.py results-a results-b --out comparison.html
    """

    results: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RESULTS")]
    """Folders or URIs that pipelines/evaluate.py wrote (its --out); the first is what the others
    are compared with."""
    out: str = "page.html"
    """The page."""
    max_pictures: int = 24
    """Pictures with a slider; where there are more, the best, the worst and an even choice."""
    max_mb: float = 16.0
    """Size of the page's pictures in MB, at most; MLflow shows pages of up to 50."""
    seed: int = 0
    """Of the bootstrap intervals."""

    def __post_init__(self) -> None:
        if not self.results:
            raise ValueError("no results; name one folder or more that evaluate.py wrote")
        if self.max_pictures < 0 or self.max_mb <= 0:
            raise ValueError(
                f"--max-pictures is {self.max_pictures} and --max-mb {self.max_mb}, need 0 or more "
                f"and more than 0"
            )


def write_report(options: ReportOptions) -> str:
    """Write the page; its place.

    Raises:
        FileNotFoundError: no results there.
        ValueError: results of different pictures.
    """
    evaluations = _with_names([_read(folder) for folder in options.results])
    _check_comparable(evaluations)
    images = list(_merged(evaluations))
    reference = evaluations[0]
    others = [name for name in dict.fromkeys(image.method for image in images) if name != BICUBIC]
    others.sort(key=lambda name: name in (UNSHARP, PASTE))  # baselines last
    pairs = [Pair(name, BICUBIC) for name in others]
    pairs += [Pair(name, others[0]) for name in others[1:]]
    ranked = _ranked(images, pairs[0])
    shown = _most_telling(ranked)[: options.max_pictures]
    views = collect_views(evaluations, shown, options.max_mb * 1e6)
    page = Page(
        images=images,
        pairs=pairs,
        ranked=ranked,
        sources=[{"folder": each.folder, **each.about} for each in evaluations],
        views=views,
        num_pictures=len({image.id for image in reference.images}),
        seed=options.seed,
    )
    storage.write_atomic(options.out, render(page).encode())
    log.info("%s: %d of %d pictures have a slider", options.out, len(views), page.num_pictures)
    return options.out


def _read(folder: str) -> Evaluation:
    images, about = read_tables(folder)
    return Evaluation(folder, images, about, {})


def _with_names(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Distinct names for the methods: their own, with folder or number where they clash."""
    methods = [list(dict.fromkeys(image.method for image in each.images)) for each in evaluations]
    count = Counter(method for group in methods for method in group)
    taken, named = set[str](), []
    for each, group in zip(evaluations, methods, strict=True):
        names = {BICUBIC: BICUBIC}
        for method in (method for method in group if method != BICUBIC):
            folder = storage.name(each.folder)
            wanted = [method] if count[method] == 1 else []
            wanted += [f"{method} ({folder})"]
            wanted += [f"{method} ({folder} {n})" for n in range(2, len(evaluations) + 2)]
            names[method] = next(name for name in wanted if name not in taken)
            taken.add(names[method])
        suffix = f", {list(names.values())[-1]}" if len(evaluations) > 1 else ""
        named.append(each._replace(names=names, suffix=suffix))
    return named


def _check_comparable(evaluations: Sequence[Evaluation]) -> None:
    """Bicubic depends on nothing but the pictures, so its scores tell whether they are the same."""
    first, *rest = ({(image.id, image.protocol): image.scores for image in each.images
                     if image.method == BICUBIC} for each in evaluations)  # fmt: skip
    for each, scores in zip(evaluations[1:], rest, strict=True):
        if different := sorted({id for id, _ in first.keys() ^ scores.keys()}):
            raise ValueError(
                f"{each.folder} and {evaluations[0].folder} hold different pictures or protocols, "
                f"such as {different[0]}; evaluate both on the same --data, --split and --limit"
            )
        for key, theirs in scores.items():
            if not math.isclose(first[key].full_psnr, theirs.full_psnr, abs_tol=1e-3):
                raise ValueError(
                    f"{each.folder} and {evaluations[0].folder}: bicubic's PSNR of {key[0]} is "
                    f"{theirs.full_psnr:.3f} and {first[key].full_psnr:.3f}, so they were scored "
                    f"on different data; evaluate both on the same --data"
                )


def _merged(evaluations: Sequence[Evaluation]) -> Iterable[ImageScores]:
    """All scores under the page's names, bicubic's once."""
    for number, each in enumerate(evaluations):
        for image in each.images:
            if number == 0 or image.method != BICUBIC:
                yield image._replace(method=each.names[image.method])


def _ranked(images: Sequence[ImageScores], pair: Pair) -> list[tuple[str, float]]:
    """Pictures by what the method gains in full PSNR, the best first, under one protocol."""
    protocols = {image.protocol for image in images}
    protocol = "png8" if "png8" in protocols else min(protocols)
    psnr = {
        (image.id, image.method): image.scores.full_psnr
        for image in images
        if image.protocol == protocol
    }
    gains = [
        (id, value - psnr[id, pair.over])
        for (id, method), value in psnr.items()
        if method == pair.method
    ]
    return sorted((gain for gain in gains if math.isfinite(gain[1])), key=lambda gain: -gain[1])


def _most_telling(ranked: Sequence[tuple[str, float]]) -> list[str]:
    """Ids in the order in which a page that cannot hold all should take them: from both ends."""
    ids = [id for id, _ in ranked]
    ends = [id for pair in zip(ids[:4], ids[::-1][:4], strict=False) for id in pair]
    middle = [id for id in ids if id not in ends]
    halves = sorted(range(len(middle)), key=lambda i: f"{i:016b}"[::-1])  # coarse to fine
    return list(dict.fromkeys([*ends, *(middle[i] for i in halves)]))


def main(options: ReportOptions) -> None:
    place = write_report(options)
    print(f"page  {place}")


if __name__ == "__main__":
    from pipelines import report as this

    command_line.run(this.main, this.ReportOptions)
