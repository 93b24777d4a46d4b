"""How fast each rank goes, for Prometheus: Ray exports these beside its own metrics."""

from collections.abc import Mapping

import torch
from ray.util.metrics import Gauge

from sddusr.runs.run_folder import TRIALS

STEP, WAIT, SAMPLES, MEMORY = (
    "sddusr_step_seconds",
    "sddusr_data_wait_ratio",
    "sddusr_samples_per_second",
    "sddusr_gpu_memory_bytes",
)

DESCRIPTIONS = {
    STEP: "Time of a training step, mean since the last row of metrics",
    WAIT: "Share of that time in which the rank waited for data",
    SAMPLES: "Samples per second of the whole run",
    MEMORY: "GPU memory that the rank's process holds",
}
"""Name of a gauge -> its description. Prometheus sees each with Ray's prefix `ray_`."""

TAGS = ("run", "rank")

OF_A_ROW = {
    STEP: "train/step_s",
    WAIT: "train/data_wait_share",
    SAMPLES: "train/samples_per_s",
}
"""Name of a gauge -> metric of a training row."""


def run_name(folder: str) -> str:
    """What gauges call a run: its folder's name, and for a trial its search's before it."""
    parts = folder.partition("?")[0].rstrip("/").split("/")
    return "/".join([parts[-3], parts[-1]] if parts[-2:-1] == [TRIALS] else parts[-1:])


class RunGauges:
    """The gauges of one rank of a run."""

    def __init__(self, run: str, rank: int) -> None:
        self._gauges = {
            name: Gauge(name, description=text, tag_keys=TAGS)
            for name, text in DESCRIPTIONS.items()
        }
        for gauge in self._gauges.values():
            gauge.set_default_tags({"run": run, "rank": str(rank)})

    def set(self, row: Mapping[str, float]) -> None:
        """Show a row of training metrics, and the memory that this process holds now."""
        for name, metric in OF_A_ROW.items():
            self._gauges[name].set(row[metric])
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            self._gauges[MEMORY].set(torch.cuda.memory_reserved())
