"""The ranks of a run: one process, or one of many under torch.distributed."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def data_parallel(module: nn.Module) -> nn.Module:
    """The module, its gradients averaged over the ranks."""
    if world_size() == 1:
        return module
    return DistributedDataParallel(module)


def sync_gradients(replica: nn.Module, now: bool) -> AbstractContextManager[Any]:
    """Whether the backward pass inside averages over the ranks what was summed so far."""
    if now or not isinstance(replica, DistributedDataParallel):
        return nullcontext()
    return replica.no_sync()


def all_reduce_max(value: int, device: torch.device) -> int:
    """The largest of the ranks' values, on every rank."""
    if world_size() == 1:
        return value
    everyones = torch.tensor(value, device=device)
    dist.all_reduce(everyones, dist.ReduceOp.MAX)
    return int(everyones)


def rank_loss_weight(num: int, batch_size: int) -> float:
    """What a mean over `num` samples counts for, so that the ranks' average of gradients is that of
    the mean over a global batch of `batch_size`. Shares may differ in size."""
    return num * world_size() / batch_size


def mean_over_batch(values: Float[Tensor, "b *rest"]) -> Float[Tensor, ""]:
    """Mean over the global batch, with its gradient, whatever the number of ranks."""
    if world_size() == 1:
        return values.float().mean()
    count = summed(torch.tensor(float(values.numel()), device=values.device))
    return _SumOverRanks.apply(values.float().sum()) / count


class _SumOverRanks(torch.autograd.Function):
    """Every rank's loss may depend on the sum, so gradients are summed over ranks as well."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        return summed(value)

    @staticmethod
    @once_differentiable
    def backward(_: Any, *grad_outputs: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return summed(grad_outputs[0])


def summed(value: Tensor) -> Tensor:
    """The sum of every rank's tensor, on every rank."""
    if world_size() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value


def gather(value: T) -> list[T]:
    """Every rank's value, in the order of the ranks, on every rank."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered
