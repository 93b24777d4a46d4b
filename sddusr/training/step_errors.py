"""What ends a training step before it changes anything."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sddusr.training import distributed
from sddusr.types import Batch


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite; the weights were not touched."""


class StepMemoryError(ValueError):
    """The GPU's memory does not hold a step; another try would meet the same."""


def explain_memory(batch: Batch, reason: str) -> str:
    """One line about a step that ran out of memory.

    Args:
        reason: torch's own message.
    """
    num, (rows, cols) = len(batch.ids), batch.lr.shape[2:]
    asked = reason.partition(". ")[2].partition(". ")[0] or reason.partition("\n")[0]
    return (
        f"rank {distributed.rank()}: the GPU's memory does not hold a step of {num} samples of "
        f"{rows}x{cols} LR pixels ({asked:.100}); raise --train.accumulate (up to {num}), "
        f"or lower --data.crop-px or --train.batch-size: a new run, which --train.init-from may "
        f"start with this one's weights"
    )


def check_finite(seen: Mapping[str, Tensor], ids: tuple[str, ...], step: int) -> None:
    """Every rank raises, or none: gradients are averaged over ranks, so their norms agree."""
    norms = torch.stack([value for name, value in seen.items() if name.endswith("norm")])
    if norms.isfinite().all():  # the only wait for a GPU in a step
        return
    message = ", ".join(f"{name} {value.item():g}" for name, value in seen.items())
    own = bool(torch.isfinite(seen["total"]))
    line = f"rank {distributed.rank()}: {message}; samples {', '.join(ids)}"
    everyone = distributed.gather((own, line))
    failing_ranks = [line for fine, line in everyone if not fine] or [line for _, line in everyone]
    raise NonFiniteError(
        f"step {step}, {' | '.join(failing_ranks)}; the weights are as before the step"
    )
