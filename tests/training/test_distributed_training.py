"""Training on several real processes under gloo."""

from pathlib import Path

import pytest
import torch

from sddusr.checkpoint import CheckpointStore, read_checkpoint
from tests.faults.loop import OF_TWO, gradients, num_steps_done, run_rank, together, uneven_shares


def last(folder: Path):
    return read_checkpoint(str(folder / "checkpoints" / f"step-{OF_TWO.train.num_steps:08d}"))


@pytest.fixture(scope="module")
def alone(tiny_shards, tmp_path_factory):
    """One process's gradients of a batch of four."""
    folder = tmp_path_factory.mktemp("alone")
    assert together(gradients, (tiny_shards.root, str(folder), 0, 1)) == [0]
    return torch.load(folder / "0-of-1.pt", weights_only=True)


@pytest.mark.parametrize(
    "world", [pytest.param(2, marks=pytest.mark.long), 3, pytest.param(4, marks=pytest.mark.long)]
)
def test_micro_batches_of_ranks_give_the_gradient_of_one_batch(world, tiny_shards, tmp_path, alone):
    """With three, their shares are of one, one and two samples."""
    shares = [(tiny_shards.root, str(tmp_path), rank, world) for rank in range(world)]
    assert together(gradients, *shares) == [0] * world
    first, *others = (
        torch.load(tmp_path / f"{rank}-of-{world}.pt", weights_only=True) for rank in range(world)
    )
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)
    torch.testing.assert_close(first, alone, rtol=1e-3, atol=1e-6)


def test_ranks_of_uneven_shares_meet_in_the_same_order(tiny_shards, tmp_path, vgg19_file):
    """One rank has one sample, the other two, in a micro-batch each."""
    for world in (1, 2):
        shares = [(tiny_shards.root, str(tmp_path), vgg19_file, r, world) for r in range(world)]
        assert together(uneven_shares, *shares) == [0] * world
    alone, first, second = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True)
        for name in ("0-of-1", "0-of-2", "1-of-2")
    )
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    torch.testing.assert_close(first, alone, rtol=1e-2, atol=1e-5)


@pytest.mark.long
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
