"""What an ablation's scores say: means, paired gains with intervals, tables and a figure."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ablation_parts.variants import Variant
from sddusr.evaluation.bootstrap import Interval, crossed_bootstrap
from sddusr.evaluation.scoring import BICUBIC

REGIONS = ("full", "center", "corner")
BLUE, GREY, ORANGE = "#1f6fb4", "#9a9a9a", "#e07b00"
COLORS = dict(zip(REGIONS, (BLUE, ORANGE, GREY), strict=True))


class Gain(NamedTuple):
    """How much better a variant scores than another: same pictures, same seeds."""

    test: str
    variant: str
    over: str
    column: str
    interval: Interval
    by_seed: tuple[float, ...]
    """The mean over pictures for each seed."""


def gain(scores: pd.DataFrame, test: str, variant: str, over: str, column: str) -> Gain | None:
    """The paired gain over the seeds that both have; None where there is none, or no region."""
    ours, theirs = (_matrix(scores, test, name, column) for name in (variant, over))
    seeds = ours.columns.intersection(theirs.columns)
    difference = (ours[seeds] - theirs[seeds]).dropna()
    if difference.empty:
        return None
    values = difference.to_numpy()
    by_seed = tuple(float(value) for value in values.mean(axis=0))
    return Gain(test, variant, over, column, crossed_bootstrap(values, seed=0), by_seed)


def all_gains(scores: pd.DataFrame, variants: Sequence[Variant]) -> list[Gain]:
    """Of every variant over bicubic and over those that it is compared with, PSNR and SSIM."""
    found = [
        gain(scores, test, variant.name, over, f"{region}_{metric}")
        for test in scores["test"].unique()
        for variant in variants
        for over in (BICUBIC, *variant.over)
        for metric in ("psnr", "ssim")
        for region in REGIONS
    ]
    return [each for each in found if each is not None]


def _matrix(scores: pd.DataFrame, test: str, variant: str, column: str) -> pd.DataFrame:
    """Rows are pictures, columns seeds."""
    chosen = scores[(scores["test"] == test) & (scores["variant"] == variant)]
    return chosen.pivot_table(index="id", columns="seed", values=column, aggfunc="first")


def means_table(scores: pd.DataFrame, variants: Sequence[Variant]) -> str:
    """Markdown: each test set's means, and how far the seeds' means lie apart."""
    head = ["test set", "network", "parameters", "full PSNR", "center", "corner", "full SSIM"]
    head += ["LPIPS", "centre's from Ref", "queries kept", "keys kept", "seeds"]
    rows = []
    for test in scores["test"].unique():
        for name in (BICUBIC, *(variant.name for variant in variants)):
            chosen = scores[(scores["test"] == test) & (scores["variant"] == name)]
            if not chosen.empty:
                rows.append([test, name, *_means(chosen, name)])
    return _markdown(head, rows)


def _means(chosen: pd.DataFrame, name: str) -> list[str]:
    by_seed = chosen.groupby("seed")[[f"{region}_psnr" for region in REGIONS]].mean()
    psnr = [_spread(by_seed[f"{region}_psnr"]) for region in REGIONS]
    mean = chosen.mean(numeric_only=True)
    lpips = chosen["full_lpips"].astype(float).mean()
    shown = "n/a" if np.isnan(lpips) else f"{lpips:.4f}"
    if name == BICUBIC:
        return ["", *psnr, f"{mean['full_ssim']:.4f}", shown, "", "", "", ""]
    kept = [f"{mean[f'kept_{what}']:.0%}" for what in ("queries", "keys")]
    count, from_ref = f"{int(mean['num_parameters']):,}", f"{mean['center_psnr_from_ref']:+.2f}"
    ssim = f"{mean['full_ssim']:.4f}"
    return [count, *psnr, ssim, shown, from_ref, *kept, str(len(by_seed))]


def _spread(by_seed: "pd.Series[float]") -> str:
    """The mean over seeds, and the standard deviation where there is one to speak of."""
    deviation = by_seed.std()
    shown = f"{by_seed.mean():.2f}"
    return shown if np.isnan(deviation) or deviation < 5e-4 else f"{shown} ± {deviation:.2f}"


def gains_table(gains: Sequence[Gain]) -> str:
    """Markdown: gains in full, centre and corner PSNR, with 95 % intervals and the seeds' own."""
    head = ["test set", "network", "over", *(f"{region} PSNR" for region in REGIONS)]
    head += ["full SSIM", "full PSNR of each seed"]
    groups: dict[tuple[str, str, str], dict[str, Gain]] = {}
    for each in gains:
        groups.setdefault((each.test, each.variant, each.over), {})[each.column] = each
    rows = []
    for key, columns in groups.items():
        psnr = [_shown(columns.get(f"{region}_psnr"), 2) for region in REGIONS]
        seeds = ", ".join(f"{value:+.2f}" for value in columns["full_psnr"].by_seed)
        rows.append([*key, *psnr, _shown(columns.get("full_ssim"), 4), seeds])
    return _markdown(head, rows)


def _shown(each: Gain | None, digits: int) -> str:
    if each is None:
        return ""
    mean, low, high = (f"{value:+.{digits}f}" for value in each.interval)
    return f"{mean} [{low}, {high}]"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def gains_figure(gains: Sequence[Gain], over: str) -> bytes | None:
    """PNG: a panel for each test set, gains in PSNR over one network with their intervals."""
    shown = [g for g in gains if g.over == over and g.column.endswith("psnr")]
    tests = list(dict.fromkeys(each.test for each in shown))
    if not tests:
        return None
    names = list(dict.fromkeys(each.variant for each in shown))
    figure = Figure(figsize=(4.6 * len(tests), 0.5 * len(names) + 1.6), layout="constrained")
    panels = figure.subplots(1, len(tests), squeeze=False, sharey=True)[0]
    for panel, test in zip(panels, tests, strict=True):
        for offset, (region, color) in zip((-0.2, 0.0, 0.2), COLORS.items(), strict=True):
            of_region = [g for g in shown if g.test == test and g.column == f"{region}_psnr"]
            y = [names.index(each.variant) + offset for each in of_region]
            means = np.array([each.interval.mean for each in of_region])
            edges = np.array([each.interval[1:] for each in of_region]).T
            bars = np.abs(edges - means)
            panel.errorbar(means, y, xerr=bars, fmt="o", color=color, label=region, capsize=3)
            for place, each in zip(y, of_region, strict=True):
                panel.plot(each.by_seed, [place] * len(each.by_seed), "|", color=color, alpha=0.6)
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_title(test)
        panel.set_xlabel(f"PSNR over {over} (dB)")
        panel.set_yticks(range(len(names)), names)
        panel.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    panels[0].legend(loc="best", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def as_rows(gains: Sequence[Gain]) -> list[dict[str, Any]]:
    """Flat, for a file."""
    return [
        {**each._asdict(), "interval": list(each.interval), "by_seed": list(each.by_seed)}
        for each in gains
    ]
