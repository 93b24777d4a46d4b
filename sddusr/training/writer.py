"""One piece of work at a time beside the training step."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

log = logging.getLogger(__name__)


class Background:
    """A thread that writes while training goes on; in order, at most one piece is under way.

    What a piece raised is raised by the next call here.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="background")
        self._pending: Future[Any] | None = None

    def start(self, work: Callable[[], Any]) -> None:
        """Begin as soon as the piece before it is done."""
        self.wait()
        self._pending = self._pool.submit(work)

    def check(self) -> None:
        """Raise what the last piece raised, if it has; never waits."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Until nothing is under way."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> "Background":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except Exception:
            if error is None:
                raise
            log.exception("what was being written failed, too")
        finally:
            self._pool.shutdown()
