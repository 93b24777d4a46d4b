"""How many pictures are made and wait at a time; more are refused at once."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from pipelines.serving.messages import RefusedError

FIRST_GUESS_S = 10.0
"""What a picture is taken to need before one was made."""
REMEMBERED = 10
"""Images over which the expected time of the next one is averaged."""


class Queue:
    """Places for requests, from their first byte to their answer.

    Args:
        num_running: pictures that are made at a time.
        max_waiting: requests that upload or wait beside them.
    """

    def __init__(self, num_running: int, max_waiting: int) -> None:
        self.num_running, self.max_waiting = num_running, max_waiting
        self.num_taken = 0
        self.num_made_now = 0
        self._turns = asyncio.Semaphore(num_running)
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)

    @property
    def num_waiting(self) -> int:
        """Requests that have a place and are not being made."""
        return self.num_taken - self.num_made_now

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place meanwhile.

        Raises:
            RefusedError: 429, all are taken.
        """
        most = self.num_running + self.max_waiting
        if self.num_taken >= most:
            wait_s = self._guess_wait_s()
            raise RefusedError(
                429,
                f"{self.num_taken} pictures are being made or wait, the server takes {most}; "
                f"try again in {wait_s} s",
                {"Retry-After": str(wait_s)},
            )
        self.num_taken += 1
        try:
            yield
        finally:
            self.num_taken -= 1

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until a replica is free, and hold it."""
        async with self._turns:
            self.num_made_now += 1
            started = time.monotonic()
            try:
                yield
            finally:
                self.num_made_now -= 1
                self._seconds.append(time.monotonic() - started)

    def _guess_wait_s(self) -> int:
        """Until one more place is free, by how long the last pictures took."""
        mean = sum(self._seconds) / len(self._seconds) if self._seconds else FIRST_GUESS_S
        return max(1, math.ceil(mean / self.num_running))
