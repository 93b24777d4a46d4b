"""Workers of Ray Train that are ended while they train."""

import hashlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray.train
from ray.train import PreemptionInfo

from pipelines import train_worker
from pipelines.train import TrainOptions, run_training
from sddusr.interrupts import Wish
from tests.faults.loop import CONFIG

STEPS_BEFORE = 5


def worker_pid() -> int:
    """The process that trains."""
    for process in psutil.Process().children(recursive=True):
        if "RayTrainWorker" in " ".join(process.cmdline()):
            return process.pid
    raise AssertionError("no worker")


def logged_steps(folder: Path) -> list[int]:
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row["step"] for row in rows if "train/total" in row]


def end_workers(folder: Path, ended: dict[int, list[int]]) -> None:
    """Amid training: one that is asked to leave, then one that is not; what was logged before."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        enough = len(logged_steps(folder)) + STEPS_BEFORE
        while len(logged_steps(folder)) < enough:
            time.sleep(0.02)
        pid = worker_pid()
        ended[pid] = logged_steps(folder)
        os.kill(pid, number)


def final_hash(checkpoints: Path) -> str:
    last = checkpoints / f"step-{CONFIG.train.num_steps:08d}" / "model.safetensors"
    return hashlib.sha256(last.read_bytes()).hexdigest()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_workers_that_are_ended_are_replaced_and_the_weights_come_out_the_same(
    tiny_shards, tmp_path, unbroken
):
    options = TrainOptions(
        data=tiny_shards.root,
        name="run",
        storage=str(tmp_path),
        workers="1",
        cpus_per_worker=1,
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        register_model="",
        config=CONFIG,
    )
    folder, ended = tmp_path / "run", {}
    killer = threading.Thread(target=end_workers, args=(folder, ended), daemon=True)
    killer.start()
    assert run_training(options).progress.step == CONFIG.train.num_steps
    killer.join(1)
    assert not killer.is_alive()
    assert final_hash(folder / "checkpoints") == final_hash(unbroken / "checkpoints")
    _, until_killed = ended.values()
    # Who was asked saved before it left, and whoever came after it did nothing twice.
    assert until_killed == list(range(1, len(until_killed) + 1))
    redone = len(logged_steps(folder)) - CONFIG.train.num_steps
    assert 0 <= redone < 2 * CONFIG.train.checkpoint_every


def test_rays_notice_is_taken_once_for_a_wish_to_save(monkeypatch):
    notices = [None, None] + 3 * [PreemptionInfo(deadline_ms=1, preempted_node_to_ranks={})]
    notices.append(PreemptionInfo(deadline_ms=2, preempted_node_to_ranks={}))
    remaining = iter(notices)
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: next(remaining))
    ask = train_worker.Notices()
    wishes = [ask() for _ in range(len(notices) * train_worker.NOTICE_EVERY)]
    assert next(remaining, "all were read") == "all were read"
    saved = [i // train_worker.NOTICE_EVERY for i, wish in enumerate(wishes) if wish == Wish.SAVE]
    assert saved == [2, 5]  # the first one, and one with another deadline
    assert Wish.STOP not in wishes
