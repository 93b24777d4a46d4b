"""From scores and views to HTML: the numbers of the tables, and the template that holds them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.reporting import plots as report_plots
from sddusr.evaluation.bootstrap import Interval, paired_bootstrap
from sddusr.evaluation.other_metrics import METRICS, is_worse_higher
from sddusr.evaluation.results import (
    PROTOCOL_NOTES,
    ImageScores,
    describe_flat_regions,
    drop_flat_regions,
    gains,
)

TEMPLATES = Path(__file__).parent / "templates"

COLUMNS = {
    "full_psnr": "PSNR, full",
    "center_psnr": "PSNR, centre",
    "corner_psnr": "PSNR, corner",
    "full_ssim": "SSIM, full",
    "center_ssim": "SSIM, centre",
    "corner_ssim": "SSIM, corner",
    "full_lpips": "LPIPS, full",
}

NUM_ENDS = 4
"""Pictures shown as the best ones, and as the worst."""


class Pair(NamedTuple):
    """A method and what it is compared with, picture by picture."""

    method: str
    over: str


class Page(NamedTuple):
    """What a page is made of."""

    images: list[ImageScores]
    pairs: list[Pair]
    """Differences to show; the first one ranks the pictures."""
    ranked: list[tuple[str, float]]
    """Ids and gains, the best first."""
    sources: list[dict[str, str]]
    """Folder and description of each evaluation."""
    views: dict[str, dict[str, Any]]
    """Id -> what a slider shows of it."""
    num_pictures: int
    seed: int


class Cell(NamedTuple):
    """A number of a table, its interval, and what a column is sorted by."""

    text: str
    interval: str = ""
    value: float = math.nan
    tone: str = ""
    """`better` or `worse` where the interval leaves 0 out; `best` of a column's means."""


def render(page: Page) -> str:
    """The page as HTML; all names in it are escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # methods keep their order
    protocols = list(dict.fromkeys(image.protocol for image in page.images))
    shown = "png8" if "png8" in protocols else protocols[0]
    methods = list(dict.fromkeys(image.method for image in page.images))
    heads = [
        ("Comparison of " if len(page.sources) > 1 else "Evaluation of ") + ", ".join(methods[1:]),
        f"{page.num_pictures} pictures",
    ]
    for id, view in page.views.items():
        view["told"] = {
            image.method: f"{image.scores.full_psnr:.2f} dB"
            for image in page.images
            if (image.id, image.protocol) == (id, shown)
        }
    return environment.get_template("report.html").render(
        title=", ".join(heads),
        sources=page.sources,
        summaries=[_summary(page, protocol, methods) for protocol in protocols],
        tables=[table for protocol in protocols for table in _tables(page, protocol, methods)],
        plots=[
            (title, note, Markup(svg))  # drawn by matplotlib, which escapes names
            for title, note, svg in report_plots.plots(page.images, page.pairs, shown, page.seed)
        ],
        ends=_ends(page),
        shown_protocol=shown,
        first_pair=page.pairs[0],
        views=page.views,
        num_pictures=page.num_pictures,
        methods=methods,
        style=_source("report.css"),
        script=_source("slider.js") + _source("report.js"),
    )


def _source(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text())  # our own file


def _summary(page: Page, protocol: str, methods: Sequence[str]) -> dict[str, Any]:
    """Means and differences of one protocol, each with its interval."""
    images = [image for image in drop_flat_regions(page.images) if image.protocol == protocol]
    columns, left_out = measured(images), describe_flat_regions(page.images)
    means = {
        method: [_mean(images, method, column, page.seed) for column in columns]
        for method in methods
    }
    differences = []
    for over in dict.fromkeys(pair.over for pair in page.pairs):
        wanted = [pair.method for pair in page.pairs if pair.over == over]
        for method in wanted:
            chosen = [image for image in images if image.method in (method, over)]
            found = {gain.column: gain.interval for gain in gains(chosen, over, page.seed)}
            cells = [_difference(column, found.get(column)) for column in columns]
            differences.append((f"{method} − {over}", cells))
    return {
        "protocol": protocol,
        "note": PROTOCOL_NOTES[protocol] + (f"; {left_out}" if left_out else ""),
        "columns": [_label(column) for column in columns],
        "means": _board(means, columns),
        "differences": differences,
    }


def _board(means: Mapping[str, list[Cell]], columns: Sequence[str]) -> list[tuple[str, list[Cell]]]:
    """The methods, highest in the first column first, with the best value of each column marked."""
    for number, column in enumerate(columns):
        sign = -1 if is_worse_higher(column) else 1
        values = [sign * cells[number].value for cells in means.values()]
        best = max((value for value in values if not math.isnan(value)), default=math.nan)
        for cells, value in zip(means.values(), values, strict=True):
            if value == best and len(means) > 1 and _has_best(column):
                cells[number] = cells[number]._replace(tone="best")
    return sorted(means.items(), key=lambda row: -_or_least(row[1][0].value))


def _or_least(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _tables(page: Page, protocol: str, methods: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A table of all pictures for each metric: every method's regions, and what is gained."""
    images = [image for image in page.images if image.protocol == protocol]
    rows = {(image.id, image.method): image.as_row() for image in images}
    for metric, columns in _by_metric(measured(images)).items():
        yield {
            "name": f"{metric}, {protocol}",
            "groups": [(method, len(columns)) for method in methods]
            + [(f"{pair.method} − {pair.over}", len(columns)) for pair in page.pairs],
            "columns": [_label(column).split(", ")[1] for column in columns]
            * (len(methods) + len(page.pairs)),
            "rows": [
                (id, [_number(column, rows[id, method][column])
                      for method in methods for column in columns]
                 + [_number(column, rows[id, pair.method][column] - rows[id, pair.over][column],
                            signed=True)
                    for pair in page.pairs for column in columns])
                for id in dict.fromkeys(image.id for image in images)
            ],
        }  # fmt: skip


def measured(images: Sequence[ImageScores]) -> list[str]:
    """The columns that every picture has."""
    rows = [image.as_row() for image in images]
    columns = [*COLUMNS, *(name for name in rows[0] if ":" in name)]
    return [column for column in columns if all(row.get(column) is not None for row in rows)]


def _by_metric(columns: Sequence[str]) -> dict[str, list[str]]:
    """Name of a metric -> its columns, one for each region."""
    found: dict[str, list[str]] = {}
    for column in columns:
        found.setdefault(_label(column).split(", ")[0], []).append(column)
    return found


def _label(column: str) -> str:
    return COLUMNS.get(column, f"{column}, full")


def _has_best(column: str) -> bool:
    library, colon, name = column.partition(":")
    return not colon or METRICS[library][name].better != "neither"


def _mean(images: Sequence[ImageScores], method: str, column: str, seed: int) -> Cell:
    """Mean over the pictures; its interval says how far other pictures could move it."""
    values = np.array([image.as_row()[column] for image in images if image.method == method])
    values = values[~np.isnan(values)]
    if len(values) == 0 or not np.isfinite(values).all():
        return _number(column, float(values.mean()) if len(values) else math.nan)
    return _with_interval(column, paired_bootstrap(values, seed), "")


def _difference(column: str, interval: Interval | None) -> Cell:
    if interval is None:
        return Cell("–")
    sign = -1 if is_worse_higher(column) else 1  # a distance is better where it is less
    low, high = sorted((sign * interval.low, sign * interval.high))
    tone = "better" if low > 0 else "worse" if high < 0 else ""
    tone = tone if _has_best(column) else ""
    return _with_interval(column, interval, "+")._replace(tone=tone)


def _with_interval(column: str, interval: Interval, sign: str) -> Cell:
    mean, low, high = (f"{value:{sign}.{_digits(column)}f}" for value in interval)
    return Cell(mean, f"{low} to {high}", interval.mean)


def _number(column: str, value: float, *, signed: bool = False) -> Cell:
    if math.isnan(value):
        return Cell("–")
    return Cell(f"{value:{'+' if signed else ''}.{_digits(column)}f}", value=value)


def _digits(column: str) -> int:
    return 2 if column.endswith("psnr") else 4


def _ends(page: Page) -> list[tuple[str, list[tuple[str, str]]]]:
    """The best and the worst pictures that have a view, with their gains; none twice."""
    ranked = [(id, f"{gain:+.2f} dB") for id, gain in page.ranked if id in page.views]
    num = min(NUM_ENDS, len(ranked) // 2)
    return [("Gains most", ranked[:num]), ("Gains least", ranked[::-1][:num])] if num else []
