"""The process group of Ray Train's workers, which stays as long as they do."""

from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend


class PersistentGroup(TorchConfig):
    """Workers whose process group ends with their processes.

    Ray Train takes the group from workers that it is about to end, as where a run grows, while
    their steps go on. What asks torch then hears of a single rank, the first: gradients would weigh
    by that, and every worker would write rows and checkpoints.
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _Backend


class _Backend(_TorchBackend):
    def on_shutdown(self, *_: Any, **__: Any) -> None:
        """Nothing: the processes end at once."""
