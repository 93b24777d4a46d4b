"""An evaluation's numbers: one row a picture, method and protocol; their means, gains and table."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from sddusr.evaluation.bootstrap import Interval, paired_bootstrap
from sddusr.evaluation.metrics import Protocol, Scores

PROTOCOL_NOTES: dict[str, str] = {
    "kedusr-float": "RGB, neither clamped nor rounded, no border cut",
    "png8": "RGB, clamped and rounded to 8 bits, no border cut",
    "y": "BT.601 luma, clamped and rounded to 8 bits, a border of 2 pixels cut",
}


class ImageScores(NamedTuple):
    """One picture of one method under one protocol."""

    id: str
    method: str
    protocol: Protocol
    scores: Scores
    full_lpips: float | None
    """None where it was not measured; LPIPS belongs to the protocol `png8`."""
    others: dict[str, float] | None = None
    """Metrics of other libraries, as `piq:gmsd`, which belong to `png8` too."""

    def as_row(self) -> dict[str, Any]:
        """Flat, by the column names of `SCHEMA`."""
        head = {"id": self.id, "method": self.method, "protocol": self.protocol}
        known = head | self.scores._asdict() | {"full_lpips": self.full_lpips}
        return known | (self.others or {})

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "ImageScores":
        """Undo `as_row`."""
        scores = Scores(*(row[name] for name in Scores._fields))
        others = {name: row[name] for name in row if ":" in name and row[name] is not None}
        lpips = row["full_lpips"]
        return cls(row["id"], row["method"], row["protocol"], scores, lpips, others or None)


BICUBIC = "bicubic"
"""The method that every evaluation scores too, bicubic enlargement."""

REGIONS = ("full", "center", "corner")


class Summary(NamedTuple):
    """Means over the pictures; nan, as of an empty corner, is left out, and so is what
    `find_flat_regions` names."""

    method: str
    protocol: Protocol
    num_pictures: int
    scores: Scores
    full_lpips: float | None
    others: dict[str, float] | None = None

    def as_row(self) -> dict[str, Any]:
        """Flat, as `ImageScores.as_row`."""
        head = {"method": self.method, "protocol": self.protocol, "num_pictures": self.num_pictures}
        known = head | self.scores._asdict() | {"full_lpips": self.full_lpips}
        return known | (self.others or {})

    def finite_scores(self) -> dict[str, float]:
        """The means that a metrics store takes: MLflow makes 1.8e308 of inf."""
        row = self.scores._asdict() | {"full_lpips": self.full_lpips}
        row |= {name.replace(":", "-"): mean for name, mean in (self.others or {}).items()}
        return {
            name: value for name, value in row.items() if value is not None and math.isfinite(value)
        }


class Gain(NamedTuple):
    """How much better a method scores than another on the same pictures."""

    method: str
    over: str
    protocol: Protocol
    column: str
    interval: Interval | None
    """None where a picture's PSNR is inf, or where no picture has the region; a region that
    `find_flat_regions` names is left out."""


SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "method", "protocol")]
    + [(name, pa.float64()) for name in (*Scores._fields, "full_lpips")]
)


def find_flat_regions(images: Iterable[ImageScores]) -> dict[str, list[str]]:
    """Pictures whose region tells nothing of a method: region -> ids, in their order.

    Bicubic enlargement gives such a region exactly (PSNR inf): it is black or of one colour.
    """
    flat: dict[str, dict[str, None]] = {region: {} for region in REGIONS}
    for image in images:
        if image.method == BICUBIC:
            for region in REGIONS:
                if math.isinf(getattr(image.scores, f"{region}_psnr")):
                    flat[region][image.id] = None
    return {region: list(ids) for region, ids in flat.items() if ids}


def drop_flat_regions(images: Sequence[ImageScores]) -> list[ImageScores]:
    """The same pictures, with nan for all scores of what `find_flat_regions` names."""
    flat = find_flat_regions(images)

    def dropped(image: ImageScores) -> ImageScores:
        regions = [region for region, ids in flat.items() if image.id in ids]
        names = [name for name in Scores._fields if name.partition("_")[0] in regions]
        lpips = image.full_lpips
        if lpips is not None and "full" in regions:
            lpips = math.nan
        others = image.others
        if others is not None and "full" in regions:
            others = dict.fromkeys(others, math.nan)
        scores = image.scores._replace(**dict.fromkeys(names, math.nan))
        return image._replace(scores=scores, full_lpips=lpips, others=others)

    return [dropped(image) for image in images] if flat else list(images)


def summarize(images: Sequence[ImageScores]) -> list[Summary]:
    """Means for each protocol and method, in the order of their first pictures."""
    return [
        Summary(
            method=method,
            protocol=protocol,
            num_pictures=len(group),
            scores=Scores(*map(_mean, zip(*(image.scores for image in group), strict=True))),
            full_lpips=_mean_lpips(group),
            others=_mean_others(group),
        )
        for (protocol, method), group in _groups(drop_flat_regions(images)).items()
    ]


def gains(images: Sequence[ImageScores], over: str, seed: int = 0) -> list[Gain]:
    """Each method's mean differences to `over`, with a paired bootstrap interval of 95 %.

    A metric that was not measured of both, as where two evaluations are compared, is left out.
    """
    groups = _groups(drop_flat_regions(images))
    return [
        Gain(method, over, protocol, column, _interval(ours, theirs, column, seed))
        for (protocol, method), ours in groups.items()
        if method != over
        for theirs in [groups[protocol, over]]
        for column in (*Scores._fields, "full_lpips", *(ours[0].others or {}))
        if ours[0].as_row()[column] is not None and theirs[0].as_row().get(column) is not None
    ]


def describe_flat_regions(images: Iterable[ImageScores]) -> str:
    """A line that names what the means leave out; empty where that is nothing."""
    parts = [
        f"{', '.join(ids[:5])}{f' and {len(ids) - 5} more' if len(ids) > 5 else ''} ({region})"
        for region, ids in find_flat_regions(images).items()
    ]
    return f"left out of the means, black or of one colour: {'; '.join(parts)}" if parts else ""


def to_text(
    summaries: Sequence[Summary],
    differences: Sequence[Gain],
    lpips_note: str,
    left_out: str = "",
    notes: Mapping[str, str] | None = None,
) -> str:
    """The means as the paper's tables print them, and the gains; a block for each protocol.

    Args:
        left_out: from `describe_flat_regions`.
        notes: metrics of other libraries that were not measured, and why.
    """
    lines: list[str] = []
    for protocol in dict.fromkeys(summary.protocol for summary in summaries):
        block = [summary for summary in summaries if summary.protocol == protocol]
        gained = [gain for gain in differences if gain.protocol == protocol]
        lines += [
            f"protocol {protocol} ({PROTOCOL_NOTES[protocol]}), {block[0].num_pictures} pictures",
            f"{'':20}{'full':^26}{'center':^18}{'corner':^18}".rstrip(),
            f"{'method':20}{'PSNR':>8}{'SSIM':>9}{'LPIPS':>9}" + f"{'PSNR':>9}{'SSIM':>9}" * 2,
            *(_summary_line(summary) for summary in block),
            *_other_lines(block),
            *_gain_lines(gained),
            "",
        ]
    others = [f"{name}: {why}" for name, why in (notes or {}).items()]
    return "\n".join([*lines, f"LPIPS: {lpips_note}", *others, *([left_out] if left_out else [])])


def _groups(images: Iterable[ImageScores]) -> dict[tuple[Protocol, str], list[ImageScores]]:
    groups: dict[tuple[Protocol, str], list[ImageScores]] = defaultdict(list)
    for image in images:
        groups[image.protocol, image.method].append(image)
    return groups


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _mean_lpips(images: Iterable[ImageScores]) -> float | None:
    values = [image.full_lpips for image in images if image.full_lpips is not None]
    return _mean(values) if values else None


def _mean_others(images: Sequence[ImageScores]) -> dict[str, float] | None:
    names = images[0].others
    return names and {
        name: _mean([(image.others or {}).get(name, math.nan) for image in images])
        for name in names
    }


def _interval(
    ours: list[ImageScores], theirs: list[ImageScores], column: str, seed: int
) -> Interval | None:
    """The pictures are paired by id; a picture without the region (nan) is left out."""
    others = {image.id: image.as_row()[column] for image in theirs}
    pairs = np.array([[image.as_row()[column], others[image.id]] for image in ours])
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    if len(pairs) == 0 or not np.isfinite(pairs).all():
        return None
    return paired_bootstrap(pairs[:, 0] - pairs[:, 1], seed)


def _summary_line(summary: Summary) -> str:
    full_psnr, full_ssim, *rest = summary.scores
    lpips = "n/a" if summary.full_lpips is None else f"{summary.full_lpips:.4f}"
    head = f"{summary.method:20}{full_psnr:8.2f}{full_ssim:9.4f}{lpips:>9}"
    pairs = zip(rest, (2, 4, 2, 4), strict=True)
    return head + "".join(f"{value:9.{digits}f}" for value, digits in pairs)


def _other_lines(block: Sequence[Summary]) -> list[str]:
    """Means of the metrics of other libraries, a line for each method."""
    names = block[0].others
    if not names:
        return []
    lines = ["metrics of other libraries, whole pictures", f"{'method':20}{'  '.join(names)}"]
    for summary in block:
        values = summary.others or {}
        cells = [f"{values[name]:{len(name)}.5f}" for name in names]
        lines.append(f"{summary.method:20}{'  '.join(cells)}")
    return lines


def _gain_lines(differences: Sequence[Gain]) -> list[str]:
    """A line for each method and region."""
    if not differences:
        return []
    lines: dict[tuple[str, str], list[str]] = defaultdict(list)
    for gain in differences:
        if ":" in gain.column:
            region, metric = "full", gain.column
        else:
            region, metric = gain.column.split("_")
        name = metric if ":" in metric else metric.upper()
        lines[gain.method, region].append(f"{name} {_interval_text(gain, metric)}")
    return [
        f"mean gain over {differences[0].over} [95 % interval, paired bootstrap over pictures]",
        *(f"{method:20}{region:8}{'   '.join(parts)}" for (method, region), parts in lines.items()),
    ]


def _interval_text(gain: Gain, metric: str) -> str:
    if gain.interval is None:
        return "not finite"
    digits = 3 if metric == "psnr" else 5
    mean, low, high = (f"{value:+.{digits}f}" for value in gain.interval)
    return f"{mean} [{low}, {high}]"
