"""SIGTERM and Ctrl-C to the command: passed on to the workers, which save and end.

Ray ends a driver at once on either, and its workers with it; nothing would be saved.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayError

T = TypeVar("T")

SIGNALS = (signal.SIGTERM, signal.SIGINT)
POLL_S = 0.2
POLL_EVERY_S = 1.0
"""Between two questions of one process whether a stop was requested."""
ANSWER_S = 10.0
"""How long a worker waits to learn whether a stop was requested."""

log = logging.getLogger(__name__)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)
class StopFlag:
    """Set once by the command; every worker can ask for it."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set


def is_stop_requested(flag: Any) -> bool:
    """Whether the command was asked to end; False where there is no flag, or no answer."""
    if flag is None:
        return False
    try:
        return ray.get(flag.is_set.remote(), timeout=ANSWER_S)
    except (RayError, TimeoutError):
        return False


class StopPoll:
    """Asks a flag between steps, at most once a second; true from then on."""

    def __init__(self, flag: Any) -> None:
        self._flag, self._next_s, self._is_requested = flag, 0.0, False

    def __call__(self) -> bool:
        if not self._is_requested and time.monotonic() >= self._next_s:
            self._is_requested = is_stop_requested(self._flag)
            self._next_s = time.monotonic() + POLL_EVERY_S
        return self._is_requested


class StoppableWork(Generic[T]):
    """Runs work beside the main thread, which waits for signals meanwhile.

    Ray Train would take Ctrl-C for itself in the main thread. A second signal ends the process as
    if this class were not there.
    """

    def __init__(self) -> None:
        self.is_main = threading.current_thread() is threading.main_thread()
        self.flag: Any = StopFlag.remote() if self.is_main else None  # pyright: ignore
        self.signal_number = 0

    def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises."""
        if not self.is_main:
            return work()
        results: list[T] = []
        errors: list[BaseException] = []

        def call() -> None:
            try:
                results.append(work())
            except BaseException as error:
                errors.append(error)

        worker = threading.Thread(target=call, name="work", daemon=True)
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            worker.start()
            while worker.is_alive() and not self.signal_number:
                worker.join(POLL_S)
            if self.signal_number and worker.is_alive():
                for number in SIGNALS:
                    signal.signal(number, before[number] or signal.SIG_DFL)
                self._pass_on()
            worker.join()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)
        if errors:
            raise errors[0]
        return results[0]

    def _handle(self, number: int, _frame: Any) -> None:
        self.signal_number = number  # and no more: the main thread may hold any lock

    def _pass_on(self) -> None:
        name = signal.Signals(self.signal_number).name
        log.warning("%s: saving after the next steps; once more ends without saving", name)
        try:
            ray.get(self.flag.set.remote(), timeout=ANSWER_S)
        except (RayError, TimeoutError) as error:
            log.warning("the workers cannot be told: %.200s", error)
