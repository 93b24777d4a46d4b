"""How a run goes: the row of metrics, and the line of the log made of it."""

import time
from collections.abc import Mapping

import torch
from torch import Tensor

UNITS = (("h", 3600), ("min", 60), ("s", 1))


class ThroughputMeter:
    """Means of the loss terms since the last row, and how fast the run goes."""

    def __init__(self) -> None:
        self._terms: list[dict[str, Tensor]] = []
        self._num_samples = 0
        self._since_s = time.perf_counter()
        self._waited_s = 0.0

    def add(self, terms: dict[str, Tensor], num_samples: int) -> None:
        self._terms.append(terms)
        self._num_samples += num_samples

    def read(self, waited_s: float) -> dict[str, float]:
        """The row (this rank's losses), then start anew; `waited_s` is the stream's total."""
        span_s = time.perf_counter() - self._since_s
        row = {
            f"train/{name}": torch.stack([terms[name] for terms in self._terms]).mean().item()
            for name in self._terms[0]
        }
        row["train/step_s"] = span_s / len(self._terms)
        row["train/samples_per_s"] = self._num_samples / span_s
        row["train/data_wait_share"] = (waited_s - self._waited_s) / span_s
        self.restart(waited_s)
        return row

    def restart(self, waited_s: float) -> None:
        """Forget what came before; validation and checkpoints are no training time."""
        self._terms, self._num_samples = [], 0
        self._since_s, self._waited_s = time.perf_counter(), waited_s


def log_line(step: int, num_steps: int, metrics: Mapping[str, float], batch_size: int) -> str:
    """A row for people: how far, loss, rate, speed and the time that is left of training; a
    validation's row with all its scores."""
    head = f"step {step}/{num_steps}"
    if "train/total" not in metrics:
        text = (f"{name} {value:.4g}" for name, value in metrics.items())
        return f"{head}: {', '.join(text)}"
    losses = [
        f"{name.removeprefix('train/')} {value:.4g}"
        for name, value in metrics.items()
        if name not in ("train/total", *_SAID_APART)
    ]
    speed = metrics["train/samples_per_s"]
    left_s = (num_steps - step) * batch_size / speed
    return (
        f"{head}: loss {metrics['train/total']:.4g} ({', '.join(losses)}), "
        f"rate {metrics['train/learning_rate']:.3g}, {speed:.3g} samples/s{_by_workers(metrics)}, "
        f"waited {metrics['train/data_wait_share']:.0%} for data, {duration(left_s)} left"
    )


_SAID_APART = (
    "train/step_s",
    "train/samples_per_s",
    "train/data_wait_share",
    "train/learning_rate",
    "train/workers",
)


def _by_workers(metrics: Mapping[str, float]) -> str:
    num = int(metrics.get("train/workers", 1))
    return f" by {num} workers" if num > 1 else ""


def duration(seconds: float) -> str:
    """The two largest units that say something: `3 h 20 min`, `5 min`, `12 s`."""
    rest = max(round(seconds), 0)
    if rest >= 600:
        rest = round(rest / 60) * 60
    parts = []
    for unit, size in UNITS:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
