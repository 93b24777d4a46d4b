"""Training on two real processes under gloo."""

from pathlib import Path

import torch

from sddusr.checkpoint import CheckpointStore, read_checkpoint
from tests.faults.loop import OF_TWO, gradients, num_steps_done, run_rank, together


def last(folder: Path):
    return read_checkpoint(str(folder / "checkpoints" / f"step-{OF_TWO.train.num_steps:08d}"))


def test_micro_batches_of_two_ranks_give_the_gradient_of_one_batch(tiny_shards, tmp_path):
    root, folder = tiny_shards.root, str(tmp_path)
    shares = [(root, folder, 0, 1), (root, folder, 0, 2), (root, folder, 1, 2)]
    assert together(gradients, *shares) == [0, 0, 0]
    one, first, second = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True)
        for name in ("0-of-1", "0-of-2", "1-of-2")
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, one, rtol=1e-3, atol=1e-6)


def test_one_rank_that_is_told_to_stop_stops_both_and_the_rest_is_bit_equal(tiny_shards, tmp_path):
    def train(folder: Path, stop_after: int) -> None:
        folder.mkdir(exist_ok=True)
        shares = [(tiny_shards.root, str(folder), rank, stop_after) for rank in range(2)]
        assert together(run_rank, *shares) == [0, 0]

    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    train(unbroken, stop_after=0)
    train(broken, stop_after=3)
    saved = CheckpointStore(str(broken / "checkpoints"), 3).newest_good()
    assert saved is not None
    assert saved.progress["step"] == 3 == num_steps_done(broken)
    train(broken, stop_after=0)
    assert last(broken).progress == last(unbroken).progress
    for state in ("model_state", "train_state"):
        ours, theirs = (getattr(last(folder), state) for folder in (broken, unbroken))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
