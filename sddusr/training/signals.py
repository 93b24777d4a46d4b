"""What the world outside may ask of a training run between two steps."""

import signal
from collections.abc import Callable
from enum import IntEnum
from types import FrameType
from typing import Any


class StopRequest(IntEnum):
    """What is asked; of several ranks' requests the largest counts."""

    GO_ON = 0
    SAVE = 1
    """Write a checkpoint at the next step, then go on."""
    STOP = 2
    """Write a checkpoint at the next step, then leave."""


PollRequest = Callable[[], StopRequest]
"""Asked after every step, on every rank equally often."""


def go_on() -> StopRequest:
    return StopRequest.GO_ON


class Sigterm:
    """Asks to stop once the process was told to end, as before a spot machine is taken away."""

    def __init__(self) -> None:
        self._received = False
        self._before: Any = signal.SIG_DFL

    def __call__(self) -> StopRequest:
        return StopRequest.STOP if self._received else StopRequest.GO_ON

    def install(self) -> None:
        """Catch SIGTERM from now on; for the process's main thread."""
        self._received = False
        self._before = signal.signal(signal.SIGTERM, self._receive)

    def uninstall(self) -> None:
        """What SIGTERM did before; for the process's main thread."""
        signal.signal(signal.SIGTERM, self._before)

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self._received = True
