"""What a search found: a table of its trials, as files and for the terminal."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from sddusr import storage
from tune.proposals import study_of
from tune.space import Space
from tune.trials import Trial

MIN_TRIALS = 6
"""Finished trials below which nothing is said about what matters."""

FAILED_LAST = {"finished": 0, "stopped": 0, "open": 0, "failed": 1}

NOTE = (
    "PSNR is the best full PSNR on the split val (kedusr-float), by which the best trial was "
    "chosen, so it flatters it: compare on the test pictures with pipelines/evaluate.py. Minutes "
    "and memory are those of trials that may have run beside each other."
)


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The best first, failed ones last."""
    return sorted(trials, key=lambda t: (FAILED_LAST[t.status], -(t.score or -np.inf), t.number))


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The best trial whose network is there; among equals the first."""
    usable = (t for t in ranked(trials) if t.status != "failed" and t.score is not None)
    return next((trial for trial in usable if trial.checkpoint), None)


def rows_of(trials: Sequence[Trial], space: Space) -> list[dict[str, Any]]:
    """A row for each trial, the best first."""
    names = space.short_names()
    return [
        {
            "trial": trial.number,
            "status": trial.status,
            **{names[field]: value for field, value in trial.values.items()},
            "val_full_psnr": trial.score,
            "best_step": trial.best.step if trial.best else None,
            "num_steps": trial.curve[-1].step if trial.curve else None,
            "seconds": trial.curve[-1].seconds if trial.curve else None,
            "peak_mb": trial.curve[-1].peak_mb if trial.curve else None,
            "num_parameters": trial.curve[-1].num_parameters if trial.curve else None,
            "reason": trial.reason,
        }
        for trial in ranked(trials)
    ]


def importances(trials: Sequence[Trial], space: Space) -> dict[str, float]:
    """Short name -> share of the scores' variance that the parameter explains (fANOVA), highest
    first; empty where too few trials ran to their end, or nothing differs between them."""
    finished = [trial for trial in trials if trial.status == "finished" and trial.curve]
    varied = [field for field in space.dimensions if len({t.values[field] for t in finished}) > 1]
    scores = {trial.score for trial in finished}
    if len(finished) < MIN_TRIALS or len(varied) < 2 or len(scores) < 2:
        return {}
    shares = optuna.importance.get_param_importances(
        study_of(space, finished),
        evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
        params=varied,
    )
    names = space.short_names()
    return {names[field]: float(share) for field, share in shares.items()}


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for people."""
    shown = [_shown(row) for row in rows]
    if not shown:
        return "no trial"
    widths = {name: max(len(name), *(len(row[name]) for row in shown)) for name in shown[0]}
    lines = [dict(zip(widths, widths, strict=True)), {n: "-" * w for n, w in widths.items()}]
    return "\n".join(
        f"| {' | '.join(row[name].ljust(width) for name, width in widths.items())} |"
        for row in [*lines, *shown]
    )


def to_html(
    title: str, rows: Sequence[Mapping[str, Any]], figures: Mapping[str, bytes], note: str
) -> str:
    """One page with everything in it.

    Args:
        figures: title -> PNG.
    """
    shown = [_shown(row) for row in rows]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in (shown[0] if shown else ()))
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row.values())}</tr>"
        for row in shown
    )
    pictures = "".join(
        f'<h2>{html.escape(name)}</h2><img alt="{html.escape(name)}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        for name, png in figures.items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1><p>{html.escape(note)}</p>"
        f"<table><tr>{head}</tr>{body}</table>{pictures}</html>"
    )


STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;"
    "background:#fff;color:#222}table{border-collapse:collapse}"
    "th,td{padding:.3rem .7rem;border-bottom:1px solid #ccc;text-align:left}img{max-width:100%}"
)


def write_results(
    folder: str,
    trials: Sequence[Trial],
    space: Space,
    title: str,
    figures: Mapping[str, bytes],
) -> dict[str, bytes]:
    """Write trials.parquet, trials.csv (the same rows), table.md, page.html and the figures.

    Args:
        figures: title -> PNG.

    Returns:
        File name -> content.
    """
    rows = rows_of(trials, space)
    table = pa.table({name: [row[name] for row in rows] for name in (rows[0] if rows else ())})
    parquet, comma_separated = io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet)
    pyarrow.csv.write_csv(table, comma_separated)
    files = {
        "trials.parquet": parquet.getvalue(),
        "trials.csv": comma_separated.getvalue(),
        "table.md": f"# {title}\n\n{to_markdown(rows)}\n\n{NOTE}\n".encode(),
        "page.html": to_html(title, rows, figures, NOTE).encode(),
        **{f"{name.replace(' ', '_')}.png": png for name, png in figures.items()},
    }
    for name, content in files.items():
        storage.write_atomic(storage.join(folder, name), content)
    return files


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    """A row as people read it."""
    seconds, peak, num = row["seconds"], row["peak_mb"], row["num_parameters"]
    columns = {
        "val_full_psnr": ("PSNR", _decimals(row["val_full_psnr"], 3)),
        "best_step": ("best at", _text(row["best_step"])),
        "num_steps": ("steps", _text(row["num_steps"])),
        "seconds": ("minutes", _decimals(seconds and seconds / 60, 1)),
        "peak_mb": ("peak MB", _decimals(peak, 0)),
        "num_parameters": ("parameters", "" if num is None else f"{num:,}"),
    }
    return dict(columns.get(name, (name, _text(value))) for name, value in row.items())


def _decimals(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/")
