"""A search as Ray Tune's own `ResultGrid`, read from the search's folder.

Tune only receives the scores that its scheduler needs, and loses them when a start is cut off.
"""

import math
from typing import Any

import pandas as pd
import pyarrow.fs
from ray.air.result import Result
from ray.tune import ResultGrid

from pipelines.ray_runtime.results import run_result
from sddusr import storage
from sddusr.training.loop import SCORE
from tune.trials import SearchFolder, Trial


class SearchGrid(ResultGrid):
    """All trials of a search, by number, whatever it was resumed from."""

    def __init__(self, folder: str) -> None:
        self._folder, self._trials = folder, SearchFolder(folder).trials()
        self._results = [_result_of(trial) for trial in self._trials]

    @property
    def experiment_path(self) -> str:
        return storage.resolve(self._folder)[1]

    @property
    def filesystem(self) -> pyarrow.fs.FileSystem:
        return storage.resolve(self._folder)[0]

    def get_best_result(
        self,
        metric: str | None = None,
        mode: str | None = None,
        scope: str = "all",
        filter_nan_and_inf: bool = True,
    ) -> Result:
        """The trial with the best value; by default that with the highest validation score at any
        step, whose checkpoint is kept.

        Args:
            metric: column of a result's `metrics_dataframe`.
            mode: max or min.
            scope: all, last, avg, last-5-avg or last-10-avg.

        Raises:
            RuntimeError: no trial logged it.
        """
        metric, mode = metric or SCORE, mode or "max"
        scored = []
        for number, result in enumerate(self._results):
            values = _values(result, metric, filter_nan_and_inf)
            if values:
                value = _in_scope(values, mode, scope)
                scored.append((value if mode == "max" else -value, -number))
        if not scored:
            raise RuntimeError(f"no trial logged {metric!r}; see a result's metrics_dataframe")
        return self._results[-max(scored)[1]]

    def get_dataframe(
        self, filter_metric: str | None = None, filter_mode: str | None = None
    ) -> pd.DataFrame:
        """A row for each trial: its number, status and values, and what it logged last; with
        `filter_metric` and `filter_mode`, what it logged where that was best."""
        rows = []
        for trial, result in zip(self._trials, self._results, strict=True):
            logged: dict[str, Any] = dict(result.metrics or {})
            frame = result.metrics_dataframe
            if filter_metric and frame is not None and filter_metric in frame:
                column = frame[filter_metric].dropna()
                best = column.idxmin() if filter_mode == "min" else column.idxmax()
                logged = frame.loc[best].to_dict()
            logged.pop("config", None)
            config = {f"config/{field}": value for field, value in trial.values.items()}
            rows.append({"trial": trial.number, "status": trial.status, **config, **logged})
        return pd.DataFrame(rows)

    @property
    def num_errors(self) -> int:
        return sum(trial.status == "failed" for trial in self._trials)

    @property
    def num_terminated(self) -> int:
        return sum(trial.status in ("finished", "stopped") for trial in self._trials)


def _result_of(trial: Trial) -> Result:
    found = run_result(trial.folder)
    error = RuntimeError(trial.reason) if trial.status == "failed" else None
    frame = found.metrics_dataframe
    last: dict[str, Any] = {} if frame is None else frame.ffill().iloc[-1].to_dict()
    return Result(
        metrics={**last, "config": trial.values},
        checkpoint=found.checkpoint,
        error=error,
        path=found.path,
        metrics_dataframe=frame,
        best_checkpoints=found.best_checkpoints,
        _storage_filesystem=found.filesystem,
    )


def _values(result: Result, metric: str, only_finite: bool) -> list[float]:
    frame = result.metrics_dataframe
    if frame is None or metric not in frame:
        return []
    values = frame[metric].dropna().tolist()
    return [value for value in values if math.isfinite(value)] if only_finite else values


def _in_scope(values: list[float], mode: str, scope: str) -> float:
    if scope == "all":
        return max(values) if mode == "max" else min(values)
    if scope == "last":
        return values[-1]
    num = {"avg": len(values), "last-5-avg": 5, "last-10-avg": 10}[scope]
    return sum(values[-num:]) / len(values[-num:])
