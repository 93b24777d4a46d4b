"""Two real processes under gloo, against one."""

from pathlib import Path

import torch
import torch.distributed as dist

from sddusr.config import LossConfig, OptimConfig
from sddusr.training import distributed
from sddusr.training.adversarial import AdversarialLoss
from tests.faults.loop import together
from tests.pretend_gpu import CUDA, pretend_gpu

SHARES = slice(0, 1), slice(1, 4)
"""Unequal, as when a run goes on with a number of workers that does not divide its batch."""
NUM_SAMPLES = 4


def game(real: torch.Tensor, fake: torch.Tensor) -> dict[str, torch.Tensor]:
    """Both sides' losses and gradients on a share of the batch."""
    torch.manual_seed(0)
    adversary = AdversarialLoss(LossConfig(discriminator_dim=4), OptimConfig(), torch.device("cpu"))
    weight = distributed.rank_loss_weight(len(real), NUM_SAMPLES)
    learned = adversary.learn(fake, real, weight)
    result = {f"grad/{n}": p.grad for n, p in adversary.discriminator.named_parameters()}
    sr = fake.clone().requires_grad_()
    (weight * adversary.generator_loss(sr, real)).backward()
    losses = learned.expand(len(real))
    return {**result, "loss": distributed.mean_over_batch(losses), "picture": sr.grad}


def one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    batch = torch.load(f"{folder}/batch.pt", weights_only=True)
    result = game(*(part[SHARES[rank]] for part in batch))
    assert distributed.gather(rank) == [0, 1]
    torch.save(result, f"{folder}/rank-{rank}.pt")
    dist.barrier()  # a rank that leaves while the other still listens has been seen to abort
    dist.destroy_process_group()


def test_two_ranks_play_the_game_of_one(tmp_path: Path):
    """The relativistic losses compare with means over the global batch, gradients included."""
    torch.manual_seed(1)
    batch = [torch.rand(NUM_SAMPLES, 3, 32, 32) for _ in range(2)]
    torch.save(batch, tmp_path / "batch.pt")
    assert together(one_of_two, (0, str(tmp_path)), (1, str(tmp_path))) == [0, 0]
    shares = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
    whole = game(*batch)
    for share in shares:  # averaged by DistributedDataParallel, so equal on both
        for name in whole:
            if name.startswith("grad") or name == "loss":
                torch.testing.assert_close(share[name], whole[name], rtol=1e-3, atol=1e-6)
    # Averaged over two ranks, in the network's own replica.
    pictures = torch.cat([share["picture"] for share in shares]) / 2
    torch.testing.assert_close(pictures, whole["picture"], rtol=1e-3, atol=1e-8)


def test_what_ranks_on_gpus_wish_is_known_a_step_later_and_nobody_waits(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda value, op: value.clamp_(min=1))
    with pretend_gpu() as gpu:
        ask = distributed.DelayedMax(CUDA)
        assert [ask(request) for request in (0, 2, 0, 0)] == [0, 1, 2, 1]
    assert gpu.counts.copies.total() == 8
    assert not gpu.counts.syncs
