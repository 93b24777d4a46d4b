"""Figures of a search, as PNG."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tune.results import importances
from tune.space import Choices, Range, Space
from tune.trials import Trial

PSNR = "PSNR on val (dB)"
BLUE, GREY, ORANGE = "#1f6fb4", "#9a9a9a", "#e07b00"
PANEL_INCHES = (4.2, 3.4)
MAX_COLUMNS = 3
LABEL_SHARE = 0.03
"""Height of a number, of the panel's."""

MIN_RANGE_DB = 0.01
"""Of the finished scores, where these are closer together."""

MIN_FINISHED = 2
"""Finished trials from which on a panel shows their range, and the others at its edge."""


def draw_all(trials: Sequence[Trial], space: Space, best: Trial | None) -> dict[str, bytes]:
    """Title -> PNG of every figure that these trials can fill."""
    scored = [trial for trial in trials if trial.score is not None]
    if not scored:
        return {}
    shares = importances(trials, space)
    figures = {
        "quality against parameters": _parameters(scored, space, best),
        "quality against time and memory": _cost(scored, best),
        "quality over steps": _curves(scored, best),
    }
    if shares:
        figures["which parameter matters"] = _importance(shares, trials)
    return figures


def _parameters(trials: Sequence[Trial], space: Space, best: Trial | None) -> bytes:
    """A panel for each searched field: the paper's Table 2 where that is N."""
    figure, panels = _panels(len(space.dimensions))
    for panel, (field, name) in zip(panels, space.short_names().items(), strict=True):
        dimension = space.dimensions[field]
        if isinstance(dimension, Choices):
            places = {value: index for index, value in enumerate(dimension.values)}
            _scatter(panel, trials, lambda t, f=field, p=places: p[t.values[f]], best)
            panel.set_xticks(range(len(places)), [str(value) for value in places])
            panel.set_xlim(-0.5, len(places) - 0.5)
        else:
            _scatter(panel, trials, lambda t, f=field: t.values[f], best)
            _scale(panel, dimension)
        panel.set_xlabel(name)
        panel.set_ylabel(PSNR)
    _legend(figure, panels[0])
    return _png(figure)


def _scale(panel: Axes, dimension: Range) -> None:
    if dimension.log:
        panel.set_xscale("log")


def _cost(trials: Sequence[Trial], best: Trial | None) -> bytes:
    measured = [t for t in trials if t.curve and t.curve[-1].peak_mb is not None]
    figure, panels = _panels(2 if measured else 1)
    _scatter(panels[0], trials, lambda t: t.curve[-1].seconds / 60, best)
    panels[0].set_xlabel("training and validation (minutes)")
    if measured:
        _scatter(panels[1], measured, lambda t: t.curve[-1].peak_mb or 0, best)
        panels[1].set_xlabel("peak memory (MB)")
    for panel in panels:
        panel.set_ylabel(PSNR)
    _legend(figure, panels[0])
    return _png(figure)


def _curves(trials: Sequence[Trial], best: Trial | None) -> bytes:
    figure, (panel,) = _panels(1, scale=1.5)
    for trial in sorted(trials, key=lambda t: t is best):
        color = ORANGE if trial is best else BLUE if trial.status == "finished" else GREY
        steps, scores = [p.step for p in trial.curve], [p.score for p in trial.curve]
        panel.plot(steps, scores, "o-", color=color, markersize=3, linewidth=1.2)
    _number_ends(panel, trials)
    panel.set_xlabel("step")
    panel.set_ylabel(PSNR)
    panel.set_title("trial's number at its end; orange: the best; grey: not run to its end",
                    fontsize=8)  # fmt: skip
    return _png(figure)


def _number_ends(panel: Axes, trials: Sequence[Trial]) -> None:
    """Each curve's number at its end, those that end together from the best to the worst."""
    ends: dict[tuple[int, int], list[Trial]] = {}
    low, high = panel.get_ylim()
    for trial in sorted(trials, key=lambda t: -t.curve[-1].score):
        step, score = trial.curve[-1][:2]
        row = round((score - low) / (high - low) / LABEL_SHARE)
        ends.setdefault((step, row), []).append(trial)
    for (step, _), group in ends.items():
        text = ", ".join(str(trial.number) for trial in group)
        middle = sum(trial.curve[-1].score for trial in group) / len(group)
        panel.annotate(text, (step, middle), (6, -3), textcoords="offset points", fontsize=8)


def _importance(shares: Mapping[str, float], trials: Sequence[Trial]) -> bytes:
    figure, (panel,) = _panels(1, scale=1.3)
    names = list(shares)[::-1]
    panel.barh(names, [shares[name] for name in names], color=BLUE)
    num = sum(trial.status == "finished" for trial in trials)
    panel.set_xlabel(f"share of the variance explained (fANOVA, {num} finished trials)")
    panel.set_xlim(0, 1)
    return _png(figure)


def _scatter(
    panel: Axes, trials: Sequence[Trial], x: Callable[[Trial], Any], best: Trial | None
) -> None:
    """A point for each trial. What was stopped far behind lies at the lower edge: in one range
    with it, the finished ones could not be told apart."""
    floor = _floor(trials)
    ended = [t for t in trials if t.status == "finished" and t is not best]
    others = [t for t in trials if t.status != "finished" and t is not best]
    groups = (
        ("finished", BLUE, "o", ended),
        ("not run to its end", GREY, "o", [t for t in others if (t.score or 0.0) >= floor]),
        ("the same, below this range", GREY, "v", [t for t in others if (t.score or 0.0) < floor]),
        ("best", ORANGE, "o", [t for t in trials if t is best]),
    )
    for label, color, marker, group in groups:
        heights = [max(t.score or 0.0, floor) for t in group]
        panel.scatter([x(t) for t in group], heights, color=color, marker=marker, label=label)


def _floor(trials: Sequence[Trial]) -> float:
    """The lowest score that is drawn at its height."""
    scores = [t.score for t in trials if t.status == "finished" and t.score is not None]
    if len(scores) < MIN_FINISHED:
        return -math.inf
    return min(scores) - max(max(scores) - min(scores), MIN_RANGE_DB)


def _panels(num: int, scale: float = 1.0) -> tuple[Figure, list[Axes]]:
    columns = min(num, MAX_COLUMNS)
    rows = -(-num // columns)
    width, height = (scale * side for side in PANEL_INCHES)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    panels = [figure.add_subplot(rows, columns, index + 1) for index in range(num)]
    for panel in panels:
        panel.grid(alpha=0.3)
    return figure, panels


def _legend(figure: Figure, panel: Axes) -> None:
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
