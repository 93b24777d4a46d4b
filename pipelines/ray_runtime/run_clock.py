"""How long a run has trained, over all its starts."""

import time
from collections.abc import Mapping

from sddusr.runs.checked_json import DamagedError
from sddusr.runs.run_folder import RunFolder
from sddusr.training.loop import SCORE


class RunClock:
    """Seconds since a run's start, without what its restarts repeated.

    A start goes on from the last validation before its first row: what an earlier start measured
    beyond that is repeated.

    Args:
        metric: what the seconds are called in the run's folder; the empty name measures nothing.
    """

    def __init__(self, run: RunFolder, metric: str) -> None:
        self._run, self._metric = run, metric
        self._started_s = time.monotonic()
        self._earlier_s: float | None = None

    def read(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """The seconds so far for a validation, nothing for other rows. Call it for every row of a
        start."""
        if not self._metric:
            return {}
        if self._earlier_s is None:
            self._earlier_s = self._seconds_before(step)
        if SCORE not in metrics:
            return {}
        return {self._metric: self._earlier_s + time.monotonic() - self._started_s}

    def _seconds_before(self, step: int) -> float:
        for earlier in reversed([known for known in self._run.segments() if known < step]):
            try:
                rows = self._run.read_segment(earlier)
            except DamagedError:  # whoever reads the run names it
                continue
            for row in rows:
                if self._metric in row:
                    return row[self._metric]
        return 0.0
