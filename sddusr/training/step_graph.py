"""A step's forward and backward passes as one CUDA graph: a single launch starts them all.

A GPU waits for the thousands of launches of a step where it computes faster than a processor
starts them. A graph is recorded from one step and started again with each batch that follows, so
what is recorded must not depend on a value: nothing waits for the GPU, shapes are fixed.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sddusr.config import Config
from sddusr.types import Batch

log = logging.getLogger(__name__)

WARM_UP_STEPS = 3
"""Steps before the one that is recorded: libraries choose their kernels, and take memory."""

Terms = dict[str, Tensor]


class StepGraph:
    """Computes the gradients of a batch: the first few plainly, then by a recorded graph.

    Args:
        compute: makes the gradients of a batch, from none, and returns the loss terms.
        parameters: what has gradients.
    """

    def __init__(
        self,
        compute: Callable[[Batch], Terms],
        parameters: list[torch.nn.Parameter],
        device: torch.device,
    ) -> None:
        self._compute, self._parameters, self._device = compute, parameters, device
        self._num_warm = 0
        self._batch: Batch | None = None
        """The recorded batch's tensors; each batch is copied into them."""

    def __call__(self, batch: Batch) -> Terms:
        """Leave a batch's gradients in the parameters.

        Raises:
            ValueError: the batch is of other sizes than the recorded one.
        """
        if self._num_warm < WARM_UP_STEPS:
            self._num_warm += 1
            return run_beside(self._device, lambda: self._compute(batch))
        if self._batch is None:
            self._record(batch)
        assert self._batch is not None
        _copy_into(self._batch, batch)
        self._replay()
        for parameter, grad in zip(self._parameters, self._grads, strict=True):
            parameter.grad = grad
        values = torch.stack([*self._terms.values()]).unbind()  # which no later step overwrites
        return dict(zip(self._terms, values, strict=True))

    def _record(self, batch: Batch) -> None:
        fixed = batch._replace(**{name: x.clone() for name, x in _tensors(batch).items()})
        self._terms, self._replay = record(lambda: self._compute(fixed))
        self._grads = [parameter.grad for parameter in self._parameters]
        self._batch = fixed
        log.info("forward and backward are one CUDA graph from now on")


def check_graph(config: Config, device: torch.device, num_ranks: int) -> None:
    """Refuse what cannot be recorded.

    Raises:
        ValueError: there is no GPU, ranks exchange values in the middle of a step, or tokens are
            written from what a step leaves outside its graph.
    """
    if device.type != "cuda":
        raise ValueError(
            f"train.cuda_graph is set, but training runs on the {device.type.upper()}; drop "
            f"--train.cuda-graph, or give each worker a GPU"
        )
    if num_ranks > 1 and config.losses.stage == "full":
        raise ValueError(
            f"train.cuda_graph with {num_ranks} workers records losses.stage rec alone, got full, "
            f"whose ranks meet in the middle of a step; drop --train.cuda-graph"
        )
    dictionary = config.model.dictionary
    if dictionary.enabled and dictionary.tokens == "written":
        raise ValueError(
            "train.cuda_graph records tokens that are learned, got dictionary.tokens written, "
            "which a step collects outside its graph; drop --train.cuda-graph"
        )


def record(work: Callable[[], Terms]) -> tuple[Terms, Callable[[], None]]:
    """What work returns, without values yet, and what starts it each time."""
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on to copy batches meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = work()
    return outputs, graph.replay


def run_beside(device: torch.device, work: Callable[[], Terms]) -> Terms:
    """Run on a stream of its own, as a graph is recorded on one."""
    current, own = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    own.wait_stream(current)
    with torch.cuda.stream(own):
        outputs = work()
    current.wait_stream(own)
    return outputs


def _tensors(batch: Batch) -> dict[str, Tensor]:
    """What lies on the device: all but the seeds, of which the noise is made before."""
    fields: dict[str, Any] = batch._asdict()
    return {n: x for n, x in fields.items() if isinstance(x, Tensor) and n != "seeds"}


def _copy_into(fixed: Batch, batch: Batch) -> None:
    new = _tensors(batch)
    for name, place in _tensors(fixed).items():
        if place.shape != new[name].shape:
            raise ValueError(
                f"{name} of a batch is {tuple(new[name].shape)}, the recorded step's is "
                f"{tuple(place.shape)}; drop --train.cuda-graph"
            )
        place.copy_(new[name])
