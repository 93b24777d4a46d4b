"""The ranks of a run: one process, or one of many under torch.distributed."""

from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")

_KNOWN = signature(DistributedDataParallel).parameters
KEEP_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _KNOWN else "broadcast_buffers": False
}
"""Buffers are the same on every rank, as they are functions of the weights or of sums over the
ranks; so none is sent at each step. Torch 2.14 renamed the option."""


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def data_parallel(module: nn.Module, may_rebuild: bool = True) -> nn.Module:
    """The module, its gradients averaged over the ranks.

    Args:
        may_rebuild: let DDP rebuild its gradient buckets after the first step; from three ranks
            on they then add up in another order than in that step, as in the first after a resume.
    """
    if world_size() == 1:
        return module
    return DistributedDataParallel(
        module,
        **KEEP_BUFFERS,
        gradient_as_bucket_view=True,
        find_unused_parameters=not may_rebuild,  # which keeps the first buckets
    )


def sync_gradients(replica: nn.Module, now: bool) -> AbstractContextManager[Any]:
    """Whether the backward pass inside averages over the ranks what was summed so far."""
    if now or not isinstance(replica, DistributedDataParallel):
        return nullcontext()
    return replica.no_sync()


def average_gradients(module: nn.Module) -> None:
    """Average all gradients over the ranks in one exchange, after a backward pass without any."""
    if world_size() == 1:
        return
    grads = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    flat /= world_size()
    pieces = flat.split([grad.numel() for grad in grads])
    torch._foreach_copy_(  # pyright: ignore[reportPrivateImportUsage]
        grads, [piece.view(grad.shape) for piece, grad in zip(pieces, grads, strict=True)]
    )


def all_reduce_max(value: int, device: torch.device) -> int:
    """The largest of the ranks' values, on every rank."""
    if world_size() == 1:
        return value
    everyones = torch.tensor(value, device=device)
    dist.all_reduce(everyones, dist.ReduceOp.MAX)
    return int(everyones)


@runtime_checkable
class Event(Protocol):
    """What is used of `torch.cuda.Event`."""

    def record(self) -> Any: ...

    def synchronize(self) -> Any: ...


class DelayedMax:
    """`all_reduce_max` of the step before on a GPU, so that the host waits for nothing; of this
    one elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pending: tuple[Tensor, Event] | None = None

    def __call__(self, value: int) -> int:
        if self._device.type != "cuda" or world_size() == 1:
            return all_reduce_max(value, self._device)
        earlier, self._pending = self._pending, self._begin(value)
        if earlier is None:
            return 0
        found, is_there = earlier
        is_there.synchronize()  # a step ago
        return int(found)

    def _begin(self, value: int) -> tuple[Tensor, Event]:
        everyones = torch.tensor([value]).pin_memory().to(self._device, non_blocking=True)
        dist.all_reduce(everyones, dist.ReduceOp.MAX)
        found, is_there = torch.zeros(1, dtype=torch.long).pin_memory(), torch.cuda.Event()
        found.copy_(everyones, non_blocking=True)
        is_there.record()
        return found, is_there


def rank_loss_weight(num: int, batch_size: int) -> float:
    """What a mean over `num` samples counts for, so that the ranks' average of gradients is that of
    the mean over a global batch of `batch_size`. Shares may differ in size."""
    return num * world_size() / batch_size


def mean_over_batch(values: Float[Tensor, "b *rest"]) -> Float[Tensor, ""]:
    """Mean over the global batch, with its gradient, whatever the number of ranks."""
    if world_size() == 1:
        return values.float().mean()
    count = summed(torch.full((), float(values.numel()), device=values.device))  # without a copy
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
