"""Runs that are killed, told to end or run into bad numbers, in processes of their own."""

import hashlib
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sddusr.checkpoint import CheckpointStore, read_checkpoint
from sddusr.config import OptimConfig, TrainConfig
from sddusr.training.learner import NonFiniteError
from sddusr.training.loop import train
from tests.faults.loop import CONFIG, StepFile, num_steps_done, start

LAST = f"step-{CONFIG.train.num_steps:08d}"
PATIENCE_S = 120
CYCLES = 3


def digests(folder: Path) -> list[str]:
    """SHA-256 of the final network and of the state that training would go on with."""
    names = ("model.safetensors", "train_state.pt", "config.json")
    last = folder / "checkpoints" / LAST
    return [hashlib.sha256((last / name).read_bytes()).hexdigest() for name in names]


def wait_for_steps(folder: Path, num: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while num_steps_done(folder) < num:
        assert time.monotonic() < until, "the run does not get on"
        time.sleep(0.005)


def finish(process) -> int | None:
    process.join(PATIENCE_S)
    return process.exitcode


@pytest.mark.long
def test_a_run_killed_again_and_again_ends_with_the_same_hash(tiny_shards, tmp_path, unbroken):
    rng = random.Random(0)
    folder = tmp_path / "run"
    for _ in range(CYCLES):
        process = start(tiny_shards.root, folder)
        wait_for_steps(folder, num_steps_done(folder) + rng.randint(1, 3))
        time.sleep(rng.random() * 0.05)  # amid a step, or a write
        process.kill()
        assert finish(process) == -signal.SIGKILL
    assert finish(start(tiny_shards.root, folder)) == 0
    assert digests(folder) == digests(unbroken)
    # One interval each, or two where the checkpoint between them was still being written.
    redone = num_steps_done(folder) - CONFIG.train.num_steps
    assert redone < CYCLES * 2 * CONFIG.train.checkpoint_every


def test_sigterm_saves_at_the_next_step_and_leaves(tiny_shards, tmp_path, unbroken):
    folder = tmp_path / "run"
    process = start(tiny_shards.root, folder)
    wait_for_steps(folder, 3)  # no step at which a checkpoint is due
    process.terminate()
    told = time.monotonic()
    assert finish(process) == 0
    assert time.monotonic() - told < 30
    done = num_steps_done(folder)
    assert done < CONFIG.train.num_steps
    saved = CheckpointStore(str(folder / "checkpoints"), 3).newest_good()
    assert saved is not None
    assert saved.progress["step"] == done
    assert finish(start(tiny_shards.root, folder)) == 0
    assert num_steps_done(folder) == CONFIG.train.num_steps  # nothing was done twice
    assert digests(folder) == digests(unbroken)


def test_a_run_that_explodes_names_the_step_and_keeps_its_last_checkpoint(tiny_shards, tmp_path):
    exploding = replace(
        CONFIG,
        optim=OptimConfig(lr=1e25),
        train=TrainConfig(num_steps=9, batch_size=2, checkpoint_every=1, precision="float32"),
    )
    store, reporter = CheckpointStore(str(tmp_path), 3), StepFile(str(tmp_path / "steps"))
    with pytest.raises(
        NonFiniteError, match=r"step \d+, rank 0: .*samples train-\d, train-\d"
    ) as e:
        train(exploding, tiny_shards, store, reporter, torch.device("cpu"))
    step = int(str(e.value).split(",")[0].removeprefix("step "))
    kept = store.newest_good()
    assert kept is not None
    assert kept.progress["step"] == step > 0
    assert all(value.isfinite().all() for value in read_checkpoint(kept.place).model_state.values())
