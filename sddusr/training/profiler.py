"""torch's profiler over a few steps of a run."""

import logging
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

SKIPPED_STEPS = 3
"""The first ones allocate, choose kernels and fill the queue of batches."""

WARM_UP_STEPS = 1
ROWS_OF_TABLE = 15

log = logging.getLogger(__name__)


class StepProfiler:
    """Watches `num_steps` steps after a few others; `step()` ends each of them.

    Args:
        keep_file: takes a copy of the trace, a gzipped JSON of Chrome's format.
    """

    def __init__(self, num_steps: int, device: torch.device, keep_file: Callable[[str], None]):
        self._keep_file = keep_file
        self._sort_by = f"self_{'cuda' if device.type == 'cuda' else 'cpu'}_time_total"
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._watch: AbstractContextManager[Any] = nullcontext()
        self._profile: profile | None = None
        if num_steps:
            self._watch = self._profile = profile(
                activities=activities,
                schedule=schedule(
                    wait=0,
                    skip_first=SKIPPED_STEPS,
                    warmup=WARM_UP_STEPS,
                    active=num_steps,
                    repeat=1,
                ),
                on_trace_ready=self._tell,
            )

    def __enter__(self) -> "StepProfiler":
        self._watch.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._watch.__exit__(*error)

    def step(self) -> None:
        if self._profile is not None:
            self._profile.step()

    def _tell(self, seen: profile) -> None:
        table = seen.key_averages().table(sort_by=self._sort_by, row_limit=ROWS_OF_TABLE)
        log.info("where the time of a step goes:\n%s", table)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "trace.json.gz")
            seen.export_chrome_trace(str(path))
            self._keep_file(str(path))
