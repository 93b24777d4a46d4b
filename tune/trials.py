"""The trials of a search on disk: each is a run folder with a proposal.

proposal.json is written by the search before the trial starts; metrics by the trial, before the
checkpoint that holds the same step; the final state by the trial, or by whoever stopped it. All
that a resumed search needs is here; nothing is read back from Ray.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, NamedTuple, cast

from sddusr import storage
from sddusr.checkpoint import resolve
from sddusr.runs.checked_json import DamagedError, Row
from sddusr.runs.run_folder import FINAL, TRIALS, RunFolder, State, Version
from sddusr.training.loop import SCORE

PROPOSAL = "proposal.json"

SECONDS, PEAK_MB, NUM_PARAMETERS = "search/seconds", "search/peak_mb", "search/num_parameters"
"""Metrics that a trial adds to each validation."""

NUM_READERS = 16
"""Threads that read the metrics of trials in a bucket."""

Status = Literal["open", "finished", "stopped", "failed"]
"""`open` has no final state yet; `stopped` was ended early, by the scheduler."""

log = logging.getLogger(__name__)


class Point(NamedTuple):
    """A validation."""

    step: int
    score: float
    """Full PSNR on the split val, in dB."""
    seconds: float
    """Since the trial's start, without what its restarts repeated."""
    peak_mb: float | None = None
    """Most memory in use: of the GPU where there is one, else of the whole process. None where
    several workers trained."""
    num_parameters: int | None = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A config that is tried, and how far that has come."""

    number: int
    folder: str
    values: dict[str, Any]
    """Field of the config -> value."""
    status: Status = "open"
    reason: str = ""
    curve: tuple[Point, ...] = ()

    @property
    def best(self) -> Point | None:
        """The first of the highest scores, whose checkpoint is kept."""
        return max(self.curve, key=lambda point: point.score, default=None)

    @property
    def score(self) -> float | None:
        return self.best.score if self.best else None

    @property
    def checkpoint(self) -> str | None:
        """The place of the best checkpoint; None before there is one."""
        try:
            return resolve(self.folder)
        except FileNotFoundError:
            return None


class SearchFolder:
    """The trials of the search in a folder, local or a URI."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._points: dict[tuple[int, int], tuple[Version, Point | None]] = {}
        self._damaged: set[str] = set()

    def run(self, number: int) -> RunFolder:
        return RunFolder(storage.join(self.folder, TRIALS, f"{number:04d}"))

    def trials(self) -> list[Trial]:
        """All that were proposed, by number; the log names those whose proposal is damaged."""
        root = storage.join(self.folder, TRIALS)
        if not storage.exists(root):
            return []
        found = []
        for number in [int(name) for name in storage.list_folders(root) if name.isdigit()]:
            try:
                if self.run(number).version(PROPOSAL) is not None:
                    found.append(self.trial(number))
            except DamagedError as error:
                self._report(error)
        return found

    def next_number(self) -> int:
        """The lowest number without a proposal, such as that of a start that was cut off; a damaged
        proposal keeps its number."""
        return next(n for n in count() if self.run(n).version(PROPOSAL) is None)

    def trial(self, number: int) -> Trial:
        """One trial.

        Raises:
            DamagedError: its proposal or its state cannot be read.
        """
        run = self.run(number)
        status = run.status()
        return Trial(
            number=number,
            folder=run.folder,
            values=_hashable((run.read(PROPOSAL) or {}).get("values", {})),
            status=cast(Status, status.state) if status.state in FINAL else "open",
            reason=status.reason,
            curve=self._curve(number),
        )

    def propose(self, number: int, values: dict[str, Any]) -> None:
        self.run(number).write(PROPOSAL, {"values": values})

    def end(self, number: int, state: State, reason: str = "") -> None:
        """Set a trial's final state; the first one stays."""
        self.run(number).end(state, reason)

    def is_over(self, number: int) -> bool:
        return self.run(number).status().state in FINAL

    def reopen(self, number: int) -> None:
        """Let a trial go on that was over."""
        self.run(number).set_state("paused")

    def _curve(self, number: int) -> tuple[Point, ...]:
        """A trial's validations by step; each segment is read once while it stays the same."""
        run = self.run(number)
        segments = run.segments()
        new = [
            step
            for step, version in segments.items()
            if self._points.get((number, step), (None,))[0] != version
        ]
        for step, point in zip(
            new, self._map(run, lambda s: self._point(run, s), new), strict=True
        ):
            self._points[number, step] = (segments[step], point)
        points = (self._points[number, step][1] for step in segments)
        return tuple(point for point in points if point is not None)

    @staticmethod
    def _map(
        run: RunFolder, work: Callable[[int], Point | None], steps: Sequence[int]
    ) -> list[Point | None]:
        if storage.is_local(run.folder) or len(steps) < 2:
            return [work(step) for step in steps]
        with ThreadPoolExecutor(NUM_READERS) as pool:
            return list(pool.map(work, steps))

    def _point(self, run: RunFolder, step: int) -> Point | None:
        try:
            return to_point(run.read_segment(step))
        except DamagedError as error:
            self._report(error)
            return None

    def _report(self, error: DamagedError) -> None:
        """Name a damaged file once."""
        if error.place not in self._damaged:
            self._damaged.add(error.place)
            log.warning("Skipping a part of the search: %s", error)


def to_point(rows: Sequence[Row]) -> Point | None:
    """The validation among the rows of a step; None where there is none."""
    merged = {key: value for row in rows for key, value in row.items()}
    if SCORE not in merged:
        return None
    num_parameters = merged.get(NUM_PARAMETERS)
    return Point(
        step=merged["step"],
        score=merged[SCORE],
        seconds=merged.get(SECONDS, 0.0),
        peak_mb=merged.get(PEAK_MB),
        num_parameters=None if num_parameters is None else int(num_parameters),
    )


def _hashable(values: dict[str, Any]) -> dict[str, Any]:
    """JSON makes lists of tuples."""
    return {
        field: tuple(value) if isinstance(value, list) else value for field, value in values.items()
    }
