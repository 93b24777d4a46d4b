"""A run of Ray Train whose workers and whose command are ended while it trains."""

import hashlib
import multiprocessing as mp
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import ray.train
import torch
from ray.train import PreemptionInfo

from pipelines.ray_runtime import worker as train_worker
from pipelines.tracking.client import MlflowClient
from pipelines.train import TrainOptions, run_training
from sddusr.cli import command_line
from sddusr.data.dataset import ShardSet
from sddusr.runs.run_folder import RunFolder
from sddusr.training.signals import StopRequest
from tests.faults.loop import CONFIG, CONTEXT, together, training_processes

STEPS_BEFORE = 5
PATIENCE_S = 120


def drive(options: TrainOptions) -> None:
    """The command; it starts a Ray of its own."""
    run_training(options)


def drive_as_typed(options: TrainOptions) -> None:
    """The same, ended as the command line ends it."""
    try:
        run_training(options)
    except command_line.StoppedError as stopped:
        sys.exit(stopped.exit_code)


def worker_of(command: mp.process.BaseProcess) -> psutil.Process:
    """The process that trains."""
    (worker,) = training_processes(psutil.Process(command.pid))
    return worker


def logged_steps(folder: Path) -> dict[int, int]:
    """Step -> time at which it was logged last."""
    rows = RunFolder(str(folder)).rows()
    return {row["step"]: row["time_ms"] for row in rows if "train/total" in row}


def wait_for_steps(folder: Path, num: int, command: mp.process.BaseProcess) -> dict[int, int]:
    """Once so many more are logged, the time of each."""
    enough = len(logged_steps(folder)) + num
    while len(logged_steps(folder)) < enough:
        assert command.is_alive()
        time.sleep(0.02)
    return logged_steps(folder)


def num_repeated(before: dict[int, int], after: dict[int, int]) -> int:
    """Steps that were logged once more."""
    return sum(after[step] != time_ms for step, time_ms in before.items())


def final_hash(checkpoints: Path) -> str:
    last = checkpoints / f"step-{CONFIG.train.num_steps:08d}" / "model.safetensors"
    return hashlib.sha256(last.read_bytes()).hexdigest()


def options_of(shards: ShardSet, storage: Path) -> TrainOptions:
    """A run named `run` with one worker."""
    return TrainOptions(
        data=shards.root,
        name="run",
        storage=str(storage),
        workers="1",
        cpus_per_worker=1,
        tracking_uri=f"sqlite:///{storage}/mlflow.db",
        register_model="",
        config=CONFIG,
    )


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_run_whose_workers_and_command_are_ended_comes_out_the_same(
    tiny_shards, tmp_path, unbroken
):
    options = options_of(tiny_shards, tmp_path)
    uri, folder = options.tracking_uri, tmp_path / "run"
    command = CONTEXT.Process(target=drive, args=(options,))
    command.start()

    wait_for_steps(folder, STEPS_BEFORE, command)
    asked = worker_of(command)
    asked.terminate()
    asked.wait(PATIENCE_S)
    before = logged_steps(folder)
    done = wait_for_steps(folder, STEPS_BEFORE, command)
    assert list(done) == list(range(1, len(done) + 1))
    assert num_repeated(before, done) == 0  # whoever came after it did nothing twice

    killed = worker_of(command)
    assert killed != asked
    killed.kill()
    killed.wait(PATIENCE_S)
    before = logged_steps(folder)
    done = wait_for_steps(folder, STEPS_BEFORE, command)
    assert num_repeated(before, done) < 2 * CONFIG.train.checkpoint_every

    command.kill()
    command.join()
    assert command.exitcode == -signal.SIGKILL
    assert together(drive, (options,)) == [0]  # the same command, typed again
    assert final_hash(folder / "checkpoints") == final_hash(unbroken / "checkpoints")
    (found,) = MlflowClient(uri).search_runs(["1"])
    assert found.info.status == "FINISHED"
    history = MlflowClient(uri).get_metric_history(found.info.run_id, "train/total")
    assert Counter(point.step for point in history) == Counter(range(1, CONFIG.train.num_steps + 1))


@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_told_to_end_saves_and_the_same_command_resumes(
    tiny_shards, tmp_path, unbroken, number
):
    options = options_of(tiny_shards, tmp_path)
    uri, folder = options.tracking_uri, tmp_path / "run"
    command = CONTEXT.Process(target=drive_as_typed, args=(options,))
    command.start()
    wait_for_steps(folder, STEPS_BEFORE, command)
    os.kill(command.pid, number)
    command.join(PATIENCE_S)
    assert command.exitcode == 128 + number
    newest = max(path.parent.name for path in folder.glob("checkpoints/*/hashes.json"))
    assert newest == f"step-{max(logged_steps(folder)):08d}"  # nothing that was done is lost
    assert not list(tmp_path.glob(".run.lock"))
    (found,) = MlflowClient(uri).search_runs(["1"])
    assert found.info.status == "KILLED"
    assert together(drive, (options,)) == [0]
    assert final_hash(folder / "checkpoints") == final_hash(unbroken / "checkpoints")


def test_rays_notice_is_taken_once_for_a_wish_to_save(monkeypatch):
    notices = [None, None] + 3 * [PreemptionInfo(deadline_ms=1, preempted_node_to_ranks={})]
    notices.append(PreemptionInfo(deadline_ms=2, preempted_node_to_ranks={}))
    remaining = iter(notices)
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: next(remaining))
    monkeypatch.setattr(train_worker, "NOTICE_S", 0.0)
    ask = train_worker.Notices(torch.device("cpu"))
    requests = [ask() for _ in notices]
    assert next(remaining, "all were read") == "all were read"
    saved = [i for i, request in enumerate(requests) if request == StopRequest.SAVE]
    assert saved == [2, 5]  # the first one, and one with another deadline
    assert StopRequest.STOP not in requests


@pytest.mark.parametrize(
    ("step_s", "num_steps", "num_asked"), [(0.025, 400, 5), (0.5, 20, 5), (10.0, 7, 7)]
)
def test_ray_is_asked_by_time_and_not_by_steps(monkeypatch, step_s, num_steps, num_asked):
    """After the first step and then every two seconds, or every step if one takes longer."""
    clock, asked = [0.0], []
    monkeypatch.setattr(train_worker.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: asked.append(clock[0]))
    ask = train_worker.Notices(torch.device("cpu"))
    for _ in range(num_steps):
        clock[0] += step_s
        ask()
    assert len(asked) == num_asked
