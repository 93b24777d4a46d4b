"""Plots of an evaluation as SVG that takes the page's own text colour, so it suits any theme."""

import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sddusr.evaluation.bootstrap import paired_bootstrap
from sddusr.evaluation.results import ImageScores
from sddusr.evaluation.scoring import BICUBIC

COLORS = ("#2f7ed8", "#d9822b", "#2e9e6b", "#a65fc9", "#c94f6d")
"""Of the methods; each can be told from light and from dark paper."""

INK = "#010203"
"""Stands for the page's text colour until the SVG is made."""

REGIONS = ("full", "center", "corner")

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sddusr",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # names may hold dollar signs
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
}

Pairs = Sequence[tuple[str, str]]
"""Methods and what each is compared with."""


def plots(
    images: Sequence[ImageScores], pairs: Pairs, protocol: str, seed: int
) -> Iterator[tuple[str, str, str]]:
    """Title, explanation and SVG of each plot."""
    psnr = {
        (image.id, image.method, region): image.as_row()[f"{region}_psnr"]
        for image in images
        if image.protocol == protocol
        for region in REGIONS
    }
    with mpl.rc_context(STYLE):
        for method, over in pairs:
            yield (
                f"{method} − {over}: gain in PSNR",
                "A point is a picture; the diamond is the mean with its 95 % interval.",
                _svg(_spread(psnr, method, over, seed)),
            )
        yield (
            "PSNR of each picture against bicubic's",
            "Above the line, the method is better; the full picture.",
            _svg(_against_bicubic(psnr, [method for method, over in pairs if over == BICUBIC])),
        )
        for method, over in pairs:
            yield (
                f"{method} − {over}, picture by picture",
                "Gain in PSNR of the full picture, sorted.",
                _svg(_sorted(psnr, method, over)),
            )


def _differences(psnr: dict[Any, float], method: str, over: str, region: str) -> dict[str, float]:
    """Id -> gain, of the pictures that have the region and a finite PSNR."""
    ids = dict.fromkeys(id for id, name, _ in psnr if name == method)
    gains = {id: psnr[id, method, region] - psnr[id, over, region] for id in ids}
    return {id: gain for id, gain in gains.items() if math.isfinite(gain)}


def _spread(psnr: dict[Any, float], method: str, over: str, seed: int) -> Figure:
    figure, axes = _empty()
    for row, region in enumerate(REGIONS):
        gains = _differences(psnr, method, over, region)
        if not gains:
            continue
        values = np.array(list(gains.values()))
        jitter = np.random.default_rng(0).uniform(-0.22, 0.22, len(values))
        points = axes.scatter(values, row + jitter, s=18, color=COLORS[0], alpha=0.65, linewidths=0)
        points.set_urls([f"#picture={id}" for id in gains])
        mean, low, high = paired_bootstrap(values, seed)
        axes.errorbar(mean, row, xerr=[[mean - low], [high - mean]], fmt="D", ms=5, lw=2,
                      capsize=4, color=INK)  # fmt: skip
    axes.axvline(0, color=INK, lw=0.8, ls=":")
    axes.set_yticks(range(len(REGIONS)), ["full", "centre", "corner"])
    axes.set_ylim(len(REGIONS) - 0.5, -0.5)
    axes.set_xlabel("gain in PSNR, dB")
    return figure


def _against_bicubic(psnr: dict[Any, float], methods: Sequence[str]) -> Figure:
    figure, axes = _empty()
    spans = []
    for number, method in enumerate(methods):
        ids = list(_differences(psnr, method, BICUBIC, "full"))
        x = [psnr[id, BICUBIC, "full"] for id in ids]
        y = [psnr[id, method, "full"] for id in ids]
        spans += [*x, *y]
        points = axes.scatter(x, y, s=22, label=method, color=COLORS[number % len(COLORS)],
                              alpha=0.75, linewidths=0)  # fmt: skip
        points.set_urls([f"#picture={id}" for id in ids])
    if spans:
        axes.axline((min(spans), min(spans)), slope=1, color=INK, lw=0.8, ls=":")
    axes.set_xlabel("bicubic, dB")
    axes.set_ylabel("method, dB")
    axes.legend(frameon=False)
    return figure


def _sorted(psnr: dict[Any, float], method: str, over: str) -> Figure:
    gains = sorted(
        _differences(psnr, method, over, "full").items(), key=lambda gain: gain[1], reverse=True
    )
    figure, axes = _empty()
    for place, (id, gain) in enumerate(gains):
        (bar,) = axes.bar(place, gain, width=0.8, color=COLORS[0] if gain >= 0 else COLORS[1])
        bar.set_url(f"#picture={id}")
    axes.axhline(0, color=INK, lw=0.8)
    axes.set_xticks([])
    axes.set_xlabel(f"{len(gains)} pictures")
    axes.set_ylabel("gain in PSNR, dB")
    return figure


def _empty() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.locator_params(nbins=6)
    axes.grid(axis="both", color=INK, alpha=0.12, lw=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure) -> str:
    """The figure's <svg> element."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    svg = drawn.getvalue().replace(INK, "currentColor")
    return svg[svg.index("<svg") :]
