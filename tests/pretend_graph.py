"""A CUDA graph without a card: operators are written down as they are dispatched, and run again.

What CUDA refuses to record is refused here too: an operator whose result the host has to know, and
one whose result has a size that depends on values. So a step that is recorded here depends on no
value, and what it computes when it is started again is what a card would compute.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.pretend_gpu import INDEXED, WAITS, is_view


class CannotRecordError(RuntimeError):
    """An operator that no CUDA graph holds."""


class Recorder(TorchDispatchMode):
    """Writes down operators; `replay` runs them again into the tensors that they gave."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._made: set[int] = set()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        """Tensors of others that were written to, and what they held."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in WAITS or (func in INDEXED and _has_mask(args[1])):
            raise CannotRecordError(f"{func} waits for the GPU")
        given = {id(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        self._keep_written(func, args, kwargs)
        out = func(*args, **kwargs)
        self._made |= {id(x) for x in tree_leaves(out) if isinstance(x, Tensor)} - given
        if not is_view(func) and func.namespace != "profiler":
            made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
            fresh = [x for x in made if id(x) not in given]
            self._calls.append((func, args, kwargs, fresh))
        return out

    def _keep_written(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        for number, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = kwargs.get(argument.name, args[number] if number < len(args) else None)
            for x in tree_leaves(value):
                if isinstance(x, Tensor) and id(x) not in self._made | self._before.keys():
                    self._before[id(x)] = x, x.clone()

    @torch.no_grad()
    def take_back(self) -> None:
        """Nothing is computed while CUDA records."""
        for tensor, value in self._before.values():
            tensor.copy_(value)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, fresh in self._calls:
            out = func(*args, **kwargs)
            made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
            for old, new in zip(fresh, made if fresh else [], strict=True):
                if old.shape != new.shape:
                    raise CannotRecordError(f"{func} gave another size")
                old.copy_(new)


def _has_mask(indices: Any) -> bool:
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)


def record(work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """In place of `sddusr.training.step_graph.record`."""
    recorder = Recorder()
    with recorder:
        outputs = work()
    recorder.take_back()
    return outputs, recorder.replay
