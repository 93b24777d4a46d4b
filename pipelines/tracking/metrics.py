"""Rows of a run folder as points of an MLflow run, each (metric, step) once."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeVar

from pipelines.tracking import client as mlflow
from pipelines.tracking.client import RefusedError, UnreachableError, translated
from sddusr.runs.checked_json import DamagedError, Row
from sddusr.runs.run_folder import RunFolder, Version

T = TypeVar("T")

MAX_METRICS_PER_CALL = 1000

MAX_TRIES = 20
"""Of a batch that fails while MLflow answers other calls; then its parts are tried one by one."""


class Point(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    time_ms: int
    step: int


class Target(Protocol):
    """The MLflow run that points are sent to."""

    run: RunFolder
    run_id: str
    is_new: bool
    """Whether this process created it, so that it holds nothing else."""
    num_sent: int
    problems: dict[str, str]

    @property
    def client(self) -> Any: ...

    def report(self, what: str, why: str) -> None: ...

    def check_not_deleted(self) -> None: ...

    def answers(self) -> bool: ...


class MetricSender:
    """Sends the points that an MLflow run does not have."""

    def __init__(self, target: Target) -> None:
        self._target, self._run = target, target.run
        self._segments: dict[int, Version] = {}
        self._steps: dict[str, set[int]] = {}
        self._set_aside: set[Point] = set()
        self._num_failures = 0

    def send_rows(self) -> None:
        """Send what is new in the folder."""
        pending = {
            step: version
            for step, version in self._run.segments().items()
            if self._segments.get(step) != version
        }
        for steps in chunks(list(pending), MAX_METRICS_PER_CALL):
            points = [point for step in steps for point in self._points(step)]
            for chunk in chunks(points, MAX_METRICS_PER_CALL):
                self._send(chunk)
            self._segments |= {step: pending[step] for step in steps}

    def _points(self, step: int) -> Iterator[Point]:
        try:
            rows = self._run.read_segment(step)
        except DamagedError as error:
            self._target.report(error.place, str(error))
            return
        self._target.problems.pop(self._run.segment_place(step), None)
        for row in rows:
            yield from self._points_of(row)

    def _points_of(self, row: Row) -> Iterator[Point]:
        for key, value in row.items():
            if key in ("step", "time_ms"):
                continue
            if math.isfinite(value):
                yield Point(allowed(key), value, row["time_ms"], row["step"])
            else:
                self._target.report(
                    f"{key} of step {row['step']}", f"it is {value}; {self._run.folder}"
                )

    def _send(self, points: Sequence[Point]) -> None:
        """Send points; where MLflow refuses them, their halves, until one is left to report."""
        try:
            self._send_new(points)
            self._num_failures = 0
        except RefusedError as error:
            self._target.check_not_deleted()
            self._split(points, error)
        except UnreachableError as error:
            self._num_failures += 1
            if self._num_failures < MAX_TRIES or not self._target.answers():
                raise
            self._split(points, error)

    def _split(self, points: Sequence[Point], error: Exception) -> None:
        if len(points) == 1:
            self._set_aside.add(points[0])
            self._target.report(f"{points[0].key} of step {points[0].step}", f"refused: {error}")
            self._num_failures = 0
            return
        middle = len(points) // 2
        failures = self._num_failures
        for half in (points[:middle], points[middle:]):
            self._num_failures = failures  # what failed so often is split at once
            self._send(half)

    def _send_new(self, points: Sequence[Point]) -> None:
        """Send the points that MLflow does not have."""
        new = []
        for key in dict.fromkeys(point.key for point in points):
            self._ask_steps(key)
        for point in points:
            known = self._steps[point.key]
            if point.step not in known and point not in self._set_aside:
                known.add(point.step)
                new.append(point)
        if not new:
            return
        metrics = [mlflow.Metric(p.key, p.value, p.time_ms, p.step) for p in new]
        try:
            translated(lambda: self._target.client.log_batch(self._target.run_id, metrics=metrics))
        except (UnreachableError, RefusedError):
            for point in new:  # they may have arrived: ask
                self._steps.pop(point.key, None)
            self._target.is_new = False
            raise
        self._target.num_sent += 1

    def _ask_steps(self, key: str) -> None:
        """Find out which steps of a metric MLflow has."""
        if key in self._steps:
            return
        history = []
        if not self._target.is_new:
            history = translated(
                lambda: self._target.client.get_metric_history(self._target.run_id, key)
            )
            self._target.num_sent += 1
        self._steps[key] = {point.step for point in history}


def allowed(key: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w\-./ ]", "-", key)


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of at most `size`."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
