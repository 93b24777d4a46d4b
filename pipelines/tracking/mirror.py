"""One run folder's metrics in MLflow: parameters, tags, each (metric, step) once, the run's state.

The folder is the truth and MLflow a view of it. A mirror may run any number of times, in any
process: it finds or creates the MLflow run by its key, asks which steps MLflow has, and sends the
rest. The first value of a (metric, step) stays: a resumed run repeats steps, and changes none.
"""

import fcntl
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from pipelines.tracking import client as mlflow
from pipelines.tracking.client import BusyError, RefusedError, UnreachableError, translated
from pipelines.tracking.links import PARENT_TAG, database_path
from sddusr import storage
from sddusr.runs.checked_json import DamagedError, Row
from sddusr.runs.run_folder import (
    CONFIG,
    FINAL,
    LOCK,
    MLFLOW,
    STATUS,
    RunConfig,
    RunFolder,
    State,
    Status,
    Version,
)

T = TypeVar("T")

MAX_PARAMS_PER_CALL = 100
MAX_METRICS_PER_CALL = 1000

KEY_TAG = "sddusr.key"
"""Finds the run again where the answer to its creation was lost."""

MAX_TRIES = 20
"""Of a batch that fails while MLflow answers other calls; then its parts are tried one by one."""

MLFLOW_STATE: dict[State, str] = {
    "created": "RUNNING",
    "running": "RUNNING",
    "paused": "KILLED",
    "finished": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
}

log = logging.getLogger(__name__)


class Point(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    time_ms: int
    step: int


class Mirror:
    """Sends what one run folder holds and its MLflow run does not.

    Args:
        parent: of the run that this one is shown below.
    """

    def __init__(self, run: RunFolder, uri: str, parent: "Mirror | None" = None) -> None:
        self.run, self.uri, self.parent = run, uri, parent
        self.run_id = ""
        """MLflow's; empty until MLflow has answered."""
        self.num_sent = 0
        """Calls that succeeded."""
        self.problems: dict[str, str] = {}
        """Place or metric -> why it is missing in MLflow."""
        self._client: Any = None
        self._lock: int | None = None
        self._config: tuple[Version, RunConfig] | None = None
        self._segments: dict[int, Version] = {}
        self._steps: dict[str, set[tuple[int, ...]]] = {}
        self._set_aside: set[Point] = set()
        self._described: Any = None
        self._state = ""
        self._num_failures = 0
        self._is_new = False
        self._settled: Any = None

    def sync(self) -> None:
        """Send what is missing.

        Raises:
            UnreachableError: MLflow does not answer now; the next call goes on from here.
            UnusableError: MLflow answers that it cannot be used.
        """
        versions = (self.run.version(CONFIG), self.run.version(STATUS))
        if self.parent is not None and self._settled == versions:
            return
        config = self._read_config()
        if config is None:
            return
        self._take_lock()
        self._open(config)
        status = self._read_status()
        self._describe(config, status)
        self._send_rows(config)
        if not config.joins or self.run_id != config.joins:
            self._set_state(MLFLOW_STATE[status.state] if status else "RUNNING", status)
        is_over = status is not None and status.state in FINAL
        self._settled = versions if is_over else None

    # --- the run -----------------------------------------------------------------------------

    def _read_config(self) -> RunConfig | None:
        version = self.run.version(CONFIG)
        if version is None:
            return None
        if self._config is None or self._config[0] != version:
            try:
                config = self.run.config()
            except DamagedError as error:
                self.report(error.place, str(error))
                return None
            if config is None:
                return None
            self._config = version, config
        return self._config[1]

    def _read_status(self) -> Status | None:
        try:
            return self.run.status()
        except DamagedError as error:
            self.report(error.place, str(error))
            return None

    def report(self, what: str, why: str) -> None:
        """Name once what MLflow misses."""
        if self.problems.get(what) != why:
            self.problems[what] = why
            log.warning("MLflow misses %s", why if what in why else f"{what}: {why}")

    def _take_lock(self) -> None:
        """Be the one process that mirrors the folder; a folder in a bucket has no lock.

        Raises:
            BusyError: another process mirrors it.
        """
        if self._lock is not None or not storage.is_local(self.run.folder):
            return
        lock = os.open(self.run.place(LOCK), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise BusyError("another process mirrors this run") from None
        self._lock = lock

    def close(self) -> None:
        """Let another process mirror the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def client(self) -> Any:
        """One client for each mirror; MLflow's are cheap."""
        if self._client is None:
            self._client = mlflow.make_client(self.uri)
        return self._client

    def _open(self, config: RunConfig) -> None:
        if self.run_id:
            return
        noted = self.noted()
        known = [config.joins, noted.get("run_id", "") if noted.get("key") == config.key else ""]
        run_id = translated(lambda: self._find(config, known), is_opening=True)
        if noted.get("run_id") != run_id:
            self.note({"tracking_uri": self.uri, "run_id": run_id, "key": config.key})
        self.num_sent += 1
        self.run_id = run_id

    def _find(self, config: RunConfig, known: Sequence[str]) -> str:
        for run_id in known:
            if run_id and self._is_known(run_id):
                return run_id
        experiment_id = self._experiment_id(config.experiment)
        found = self.client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{config.key}'")
        if found:
            return found[0].info.run_id
        run = self.client.create_run(
            experiment_id,
            start_time=config.created_ms,
            run_name=config.name,
            tags={**config.source, **config.tags, **self._parent_tag(), KEY_TAG: config.key},
        )
        self._is_new = True
        return run.info.run_id

    def _is_known(self, run_id: str) -> bool:
        try:
            return self.client.get_run(run_id).info.lifecycle_stage == "active"
        except mlflow.MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _experiment_id(self, name: str) -> str:
        """The experiment's id; with SQLite its files lie beside the database."""
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        location = None
        if self.uri.startswith("sqlite:"):
            folder = database_path(self.uri).parent / "mlartifacts" / name
            location = folder.absolute().as_uri()
        return self.client.create_experiment(name, artifact_location=location)

    def noted(self) -> dict[str, Any]:
        """What the folder says about its MLflow run; empty where that is another store's."""
        try:
            noted = self.run.read(MLFLOW) or {}
        except DamagedError:
            return {}  # the key finds the run
        return noted if noted.get("tracking_uri") == self.uri else {}

    def note(self, content: dict[str, Any]) -> None:
        self.run.write(MLFLOW, content)

    def _parent_tag(self) -> dict[str, str]:
        return {PARENT_TAG: self.parent.run_id} if self.parent and self.parent.run_id else {}

    # --- parameters, tags, state -------------------------------------------------------------

    def _describe(self, config: RunConfig, status: Status | None) -> None:
        tags = {**config.tags, **self._parent_tag()}
        if status is not None and status.state in FINAL and not config.joins:
            tags |= {"sddusr.status": status.state, "sddusr.reason": status.reason}
        if self._described == (config.params, tags):
            return
        for chunk in _chunks([mlflow.Param(k, v) for k, v in config.params.items()]):
            self._try("parameters", lambda chunk=chunk: self._log(params=chunk))
        for chunk in _chunks([mlflow.RunTag(k, v) for k, v in tags.items()]):
            self._try("tags", lambda chunk=chunk: self._log(tags=chunk))
        self._described = (config.params, tags)

    def _try(self, what: str, work: Any) -> None:
        """A call that may be repeated; a refusal is reported."""
        try:
            translated(work)
            self.num_sent += 1
        except RefusedError as error:
            self.report(f"{what} of {self.run.folder}", str(error))

    def _log(self, **entries: Any) -> None:
        self.client.log_batch(self.run_id, **entries)

    def _set_state(self, state: str, status: Status | None) -> None:
        if state == self._state:
            return
        if state == "RUNNING" or status is None:
            self._try("state", lambda: self.client.update_run(self.run_id, status=state))
        else:
            self._try(
                "state", lambda: self.client.set_terminated(self.run_id, state, status.since_ms)
            )
        self._state = state

    # --- metrics -----------------------------------------------------------------------------

    def _send_rows(self, config: RunConfig) -> None:
        pending = {
            step: version
            for step, version in self.run.segments().items()
            if self._segments.get(step) != version
        }
        for steps in _chunks(list(pending), MAX_METRICS_PER_CALL):
            points = [point for step in steps for point in self._points(step)]
            is_joined = bool(config.joins) and self.run_id == config.joins
            for chunk in _chunks(points, MAX_METRICS_PER_CALL):
                self._send(chunk, is_joined)
            self._segments |= {step: pending[step] for step in steps}

    def _points(self, step: int) -> Iterator[Point]:
        try:
            rows = self.run.read_segment(step)
        except DamagedError as error:
            self.report(error.place, str(error))
            return
        self.problems.pop(self.run.segment_place(step), None)
        for row in rows:
            yield from self._points_of(row)

    def _points_of(self, row: Row) -> Iterator[Point]:
        for key, value in row.items():
            if key in ("step", "time_ms"):
                continue
            if math.isfinite(value):
                yield Point(_allowed(key), value, row["time_ms"], row["step"])
            else:
                self.report(f"{key} of step {row['step']}", f"it is {value}; {self.run.folder}")

    def _send(self, points: Sequence[Point], is_joined: bool) -> None:
        """Send points; where MLflow refuses them, their halves, until one is left to report."""
        try:
            self._send_new(points, is_joined)
            self._num_failures = 0
        except RefusedError as error:
            self._split(points, is_joined, error)
        except UnreachableError as error:
            self._num_failures += 1
            if self._num_failures < MAX_TRIES or not self.answers():
                raise
            self._split(points, is_joined, error)

    def _split(self, points: Sequence[Point], is_joined: bool, error: Exception) -> None:
        if len(points) == 1:
            self._set_aside.add(points[0])
            self.report(f"{points[0].key} of step {points[0].step}", f"refused: {error}")
            self._num_failures = 0
            return
        middle = len(points) // 2
        failures = self._num_failures
        for half in (points[:middle], points[middle:]):
            self._num_failures = failures  # what failed so often is split at once
            self._send(half, is_joined)

    def _send_new(self, points: Sequence[Point], is_joined: bool) -> None:
        """Send the points that MLflow does not have."""
        new = []
        for key in dict.fromkeys(point.key for point in points):
            self._ask_steps(key)
        for point in points:
            known = self._steps[point.key]
            which = (point.step, point.time_ms) if is_joined else (point.step,)
            if which not in known and point not in self._set_aside:
                known.add(which)
                new.append(point)
        if not new:
            return
        metrics = [mlflow.Metric(p.key, p.value, p.time_ms, p.step) for p in new]
        try:
            translated(lambda: self._log(metrics=metrics))
        except (UnreachableError, RefusedError):
            for point in new:  # they may have arrived: ask
                self._steps.pop(point.key, None)
            self._is_new = False
            raise
        self.num_sent += 1

    def _ask_steps(self, key: str) -> None:
        """Find out which steps of a metric MLflow has: each step alone, and with its time."""
        if key in self._steps:
            return
        history = []
        if not self._is_new:
            history = translated(lambda: self.client.get_metric_history(self.run_id, key))
            self.num_sent += 1
        self._steps[key] = {(p.step,) for p in history} | {(p.step, p.timestamp) for p in history}

    @property
    def is_settled(self) -> bool:
        """Whether a trial is over and all its rows are sent."""
        return self.parent is not None and self._settled is not None

    def answers(self) -> bool:
        """Whether MLflow answers about this run now."""
        try:
            return self._is_known(self.run_id)
        except Exception:
            return False


def _allowed(key: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w\-./ ]", "-", key)


def _chunks(items: Iterable[T], size: int = MAX_PARAMS_PER_CALL) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def noted_run(folder: str) -> str:
    """The MLflow run that a run folder was mirrored to last; empty where there is none."""
    place = storage.join(folder, MLFLOW)
    if not storage.exists(place):
        return ""
    try:
        return str(storage.read_json(place).get("run_id", ""))
    except (ValueError, AttributeError):
        return ""
