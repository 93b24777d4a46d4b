"""A search on disk. One folder for each trial, whose files have one writer each:

proposal.json   its values; by the search, before the trial starts
progress.json   its validations so far, time and memory; by the trial, before the checkpoint that
                holds the same step
outcome.json    that it is over, and why; by the trial, or by whoever stopped it
closed.json     that its MLflow run was ended; by the search

Beside them lie the trial's checkpoints and what waits for MLflow. All that a resumed search needs
is here; nothing is read back from Ray.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from sddusr import storage
from sddusr.checkpoint import resolve

PROPOSAL, PROGRESS, OUTCOME, CLOSED = (
    "proposal.json",
    "progress.json",
    "outcome.json",
    "closed.json",
)
TRIALS = "trials"

Status = Literal["open", "finished", "stopped", "failed"]
"""`open` has no outcome yet; `stopped` is early, by the scheduler."""


class Point(NamedTuple):
    """A validation."""

    step: int
    score: float
    """Full PSNR on the split val, in dB."""
    seconds: float
    """Since the trial's start, what its restarts did again left out."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a trial measured."""

    curve: tuple[Point, ...] = ()
    peak_bytes: int | None = None
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
    progress: Progress = Progress()
    is_closed: bool = False
    """Whether its MLflow run was ended."""

    @property
    def curve(self) -> tuple[Point, ...]:
        return self.progress.curve

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


class Ledger:
    """The trials of the search in a folder, local or a URI."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def trial_folder(self, number: int) -> str:
        return storage.join(self.folder, TRIALS, f"{number:04d}")

    def trials(self) -> list[Trial]:
        """All that were proposed, by number."""
        root = storage.join(self.folder, TRIALS)
        if not storage.exists(root):
            return []
        numbers = [int(name) for name in storage.list_folders(root) if name.isdigit()]
        return [self.trial(number) for number in numbers if self._has(number, PROPOSAL)]

    def trial(self, number: int) -> Trial:
        outcome = self._read(number, OUTCOME) or {}
        told = self._read(number, PROGRESS) or {}
        curve = tuple(Point(*point) for point in told.pop("curve", ()))
        return Trial(
            number=number,
            folder=self.trial_folder(number),
            values=_hashable(storage.read_json(self._place(number, PROPOSAL))),
            status=outcome.get("status", "open"),
            reason=outcome.get("reason", ""),
            progress=Progress(curve=curve, **told),
            is_closed=self._has(number, CLOSED),
        )

    def propose(self, number: int, values: dict[str, Any]) -> None:
        self._write(number, PROPOSAL, values)

    def note(self, number: int, progress: Progress) -> None:
        self._write(number, PROGRESS, asdict(progress))

    def end(self, number: int, status: Status, reason: str = "") -> None:
        """Say that a trial is over; what was said first stays."""
        if not self.is_over(number):
            self._write(number, OUTCOME, {"status": status, "reason": reason})

    def is_over(self, number: int) -> bool:
        return self._has(number, OUTCOME)

    def close(self, number: int) -> None:
        self._write(number, CLOSED, {})

    def reopen(self, number: int) -> None:
        """Let a trial go on that was over."""
        for name in (CLOSED, OUTCOME):
            storage.remove(self._place(number, name))

    def _place(self, number: int, name: str) -> str:
        return storage.join(self.trial_folder(number), name)

    def _has(self, number: int, name: str) -> bool:
        return storage.exists(self._place(number, name))

    def _read(self, number: int, name: str) -> dict[str, Any] | None:
        return storage.read_json(self._place(number, name)) if self._has(number, name) else None

    def _write(self, number: int, name: str, content: Any) -> None:
        storage.write_atomic(self._place(number, name), json.dumps(content).encode())


def _hashable(values: dict[str, Any]) -> dict[str, Any]:
    """JSON makes lists of tuples."""
    return {
        field: tuple(value) if isinstance(value, list) else value for field, value in values.items()
    }
