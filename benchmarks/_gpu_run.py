"""The training loop itself, stopped and resumed, and the step of a process group, for gpu.py."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch.distributed as dist
from _gpu_setup import Row, Setup, batch_of, config_of, learner_of, needs_values, on_device
from ingest import NUM_WINDOWS, make_shards
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sddusr.checkpoint import CheckpointStore
from sddusr.data.dataset import ShardSet
from sddusr.training import distributed
from sddusr.training.distributed import KEEP_BUFFERS
from sddusr.training.loop import train
from sddusr.training.signals import StopRequest

LONGEST_WAIT = 0.05
"""Share of a step's time that it may wait for data."""


class Rows:
    """A reporter that keeps the rows of metrics."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, Mapping[str, float]]] = []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.rows.append((step, metrics))

    def show(self, step: int, pictures: Mapping[str, Any]) -> None: ...

    def keep_file(self, path: str) -> None: ...

    def measure(self, metrics: Mapping[str, float]) -> None: ...

    def milestone(self, step: int, metrics: Mapping[str, float]) -> None: ...


@needs_values
def run(setup: Setup) -> Iterator[Row]:
    """Steps, validation and checkpoints from shards: stopped on the way, and resumed."""
    num, preset = (5, "demo") if setup.is_quick else (150, "paper")
    config = config_of(preset, setup.fastest, num_steps=num, log_every=max(1, num // 10),
                       validate_every=num, checkpoint_every=max(1, num // 3))  # fmt: skip
    if setup.is_quick:
        config = replace(
            config,
            data=replace(config.data, crop_px=16, shift_px=(2, 8)),
            train=replace(config.train, batch_size=1),
        )
    asked = iter(range(num))

    def stop_once() -> StopRequest:
        return StopRequest.STOP if next(asked, 0) == num * 3 // 5 else StopRequest.GO_ON

    with tempfile.TemporaryDirectory() as folder:
        make_shards(f"{folder}/shards", 16 if setup.is_quick else NUM_WINDOWS)
        shards, reporter = ShardSet(f"{folder}/shards"), Rows()
        store = CheckpointStore(f"{folder}/checkpoints", 2)
        paused = train(config, shards, store, reporter, setup.device, poll_request=stop_once)
        ended = train(config, shards, store, reporter, setup.device)
        shards.close()
    trained = [row for _, row in reporter.rows if "train/total" in row]
    waits = [row["train/data_wait_share"] for row in trained[1:]]
    longest = sorted(waits)[len(waits) // 2]
    yield {
        "stopped_at": paused.step,
        "ended_at": ended.step,
        "samples_per_s": max(row["train/samples_per_s"] for row in trained),
        "data_wait_share": longest,
        "passes": paused.step < ended.step == num and (setup.is_quick or longest < LONGEST_WAIT),
    }


@needs_values
def group(setup: Setup) -> Iterator[Row]:
    """DDP over a group of one rank gives the plain step's gradients."""
    backend = "nccl" if setup.device.type == "cuda" else "gloo"
    preset, num, crop = ("demo", 1, 16) if setup.is_quick else ("paper", 4, 128)
    batch, found = on_device(batch_of(num, crop), setup), []
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder, "meet").as_uri()
        dist.init_process_group(backend, meeting, rank=0, world_size=1)
        try:
            for is_parallel in (False, True):
                wrap = _in_ddp if is_parallel else distributed.data_parallel
                with mock.patch.object(distributed, "data_parallel", wrap):
                    learner = learner_of(preset, setup, "float32", deterministic=True)
                    learner.step(batch, 10**5)
                parameters = learner.model.parameters()
                found.append([p.grad.cpu() for p in parameters if p.grad is not None])
        finally:
            dist.destroy_process_group()
    apart = max(float((a - b).abs().max()) for a, b in zip(*found, strict=True))
    largest = max(float(a.abs().max()) for a in found[0])
    yield {"backend": backend, "gradients": len(found[0]), "largest_difference": apart,
           "passes": bool(found[0]) and apart <= 1e-6 * largest}  # fmt: skip


def _in_ddp(module: nn.Module, may_rebuild: bool = True) -> nn.Module:
    """As `data_parallel` wraps it where there are several ranks."""
    return DistributedDataParallel(module, gradient_as_bucket_view=True, **KEEP_BUFFERS)


PARTS = {"run": run, "group": group}
