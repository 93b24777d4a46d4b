"""Runs that are interrupted, and checkpoints written beside the steps."""

import logging
import threading
from dataclasses import replace

import pytest
import torch

from sddusr.checkpoint import CheckpointStore, read_checkpoint
from sddusr.config import OptimConfig
from sddusr.training.learner import Learner
from sddusr.training.loop import Progress, _keep_precision, train
from sddusr.training.signals import StopRequest
from tests.runs import CONFIG, CPU, LAST, Notebook, run, weights, with_train


def test_an_interrupted_run_ends_bit_equal_to_an_unbroken_one(tiny_shards, tmp_path):
    class Cut(Exception):
        pass

    class CutAt4(Notebook):
        def milestone(self, step, metrics):
            if step == 4:
                raise Cut

    unbroken, _ = run(tiny_shards, tmp_path / "unbroken")
    store = CheckpointStore(str(tmp_path / "broken"), 3)
    with pytest.raises(Cut):
        train(CONFIG, tiny_shards, store, CutAt4(), CPU, "run-1")
    resumed = train(CONFIG, tiny_shards, store, Notebook(), CPU, "another")
    assert resumed == unbroken  # the best score and MLflow's run, too
    last = "step-00000006"
    torch.testing.assert_close(
        weights(tmp_path / "broken" / last), weights(tmp_path / "unbroken" / last), rtol=0, atol=0
    )


def test_a_run_cut_before_its_flow_learns_ends_bit_equal_too(tiny_shards, tmp_path):
    config = replace(CONFIG, optim=replace(CONFIG.optim, align_from_step=5))
    run(tiny_shards, tmp_path / "unbroken", config)
    run(tiny_shards, tmp_path / "broken", config)
    for folder in (tmp_path / "broken").glob("step-*"):
        if folder.name > "step-00000004":
            (folder / "hashes.json").unlink()
    run(tiny_shards, tmp_path / "broken", config)
    last = "step-00000006"
    torch.testing.assert_close(
        weights(tmp_path / "broken" / last), weights(tmp_path / "unbroken" / last), rtol=0, atol=0
    )


def test_a_wish_to_save_is_granted_at_the_next_step_and_training_goes_on(tiny_shards, tmp_path):
    poll_request = iter(
        [StopRequest.GO_ON, StopRequest.GO_ON, StopRequest.SAVE, *[StopRequest.GO_ON] * 3]
    )
    progress, notebook = run(tiny_shards, tmp_path, keep=9, poll_request=lambda: next(poll_request))
    assert progress.step == 6
    assert notebook.milestones == [2, 3, 4, 6]
    assert read_checkpoint(str(tmp_path / "step-00000003")).progress["step"] == 3


def test_a_wish_to_stop_saves_and_leaves_and_the_rest_comes_out_the_same(tiny_shards, tmp_path):
    config = with_train(ema_decay=0.9)
    unbroken, _ = run(tiny_shards, tmp_path / "unbroken", config)
    stopped, _ = run(
        tiny_shards, tmp_path / "broken", config, poll_request=lambda: StopRequest.STOP
    )
    assert stopped.step == 1
    assert run(tiny_shards, tmp_path / "broken", config)[0] == unbroken
    same = [read_checkpoint(str(tmp_path / name / LAST)) for name in ("unbroken", "broken")]
    torch.testing.assert_close(same[0].model_state, same[1].model_state, rtol=0, atol=0)
    torch.testing.assert_close(same[0].train_state, same[1].train_state, rtol=0, atol=0)


class SlowStore(CheckpointStore):
    """Writes only once the steps behind have been made."""

    def __init__(self, folder, until):
        super().__init__(folder, 9)
        self.until = until

    def write(self, **state):
        assert self.until.wait(60)
        return super().write(**state)


def test_training_goes_on_while_a_checkpoint_is_written(tiny_shards, tmp_path):
    """What is written is the state of its own step, not what the steps beside it made of it."""
    wanted = tmp_path / "wanted"
    run(tiny_shards, wanted, with_train(checkpoint_every=3, log_every=1))
    until = threading.Event()

    class Releasing(Notebook):
        def log(self, step, metrics):
            super().log(step, metrics)
            if step == 5:
                until.set()

    store, notebook = SlowStore(str(tmp_path / "run"), until), Releasing()
    train(with_train(checkpoint_every=3, log_every=1), tiny_shards, store, notebook, CPU, "run-1")
    for step in (3, 6):
        places = [str(folder / f"step-{step:08d}") for folder in (wanted, tmp_path / "run")]
        torch.testing.assert_close(weights(places[0]), weights(places[1]), rtol=0, atol=0)


def test_a_checkpoint_that_cannot_be_written_stops_the_run(tiny_shards, tmp_path):
    class FullStore(CheckpointStore):
        def write(self, **state):
            if state["progress"]["step"] > 2:
                raise OSError("no space to write it")
            return super().write(**state)

    store, notebook = FullStore(str(tmp_path), 3), Notebook()
    with pytest.raises(OSError, match="no space"):
        train(with_train(num_steps=60), tiny_shards, store, notebook, CPU)
    kept = store.newest_good()
    assert kept is not None
    assert kept.progress["step"] == 2  # the one before is whole
    assert max(step for step, _ in notebook.rows) < 60


def test_a_finished_run_has_nothing_left_to_do(tiny_shards, tmp_path):
    first, _ = run(tiny_shards, tmp_path)
    again, notebook = run(tiny_shards, tmp_path)
    assert again == first
    assert notebook.rows == []
    assert run(tiny_shards, tmp_path, with_train(profile_steps=1))[0] == first  # only watches


def test_another_config_never_resumes_silently(tiny_shards, tmp_path):
    run(tiny_shards, tmp_path)
    other = replace(CONFIG, optim=OptimConfig(lr=1e-3))
    with pytest.raises(ValueError, match=r"optim\.lr was 0\.002, is 0\.001; take another --name"):
        run(tiny_shards, tmp_path, other)


def test_a_damaged_checkpoint_costs_one_interval_not_the_run(tiny_shards, tmp_path, caplog):
    unbroken, _ = run(tiny_shards, tmp_path)
    final = weights(tmp_path / "step-00000006")
    (tmp_path / "step-00000006" / "model.safetensors").write_bytes(b"")
    with caplog.at_level(logging.INFO):
        resumed, _ = run(tiny_shards, tmp_path)
    assert "Skipping damaged checkpoint" in caplog.text
    assert resumed == unbroken
    torch.testing.assert_close(weights(tmp_path / "step-00000006"), final, rtol=0, atol=0)


def test_a_run_goes_on_in_the_format_that_it_began_with(caplog):
    """`auto` may stand for another one on the device that it is resumed on."""
    learner = Learner(with_train(precision="float32"), CPU)
    progress = Progress(data_hash="", precision="bfloat16")
    _keep_precision(learner, progress)
    assert learner.precision == progress.precision == "bfloat16"
    assert "computed in bfloat16 before, not in float32, and goes on so" in caplog.text
    early = Progress(data_hash="")  # of a checkpoint that does not say
    _keep_precision(learner, early)
    assert early.precision == "bfloat16"
