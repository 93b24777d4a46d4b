"""The progress of an image: a bar on a terminal, lines in a log."""

import logging
import sys
import time

from tqdm import tqdm

LOG_EVERY_S, ACTOR_LOG_EVERY_S = 10.0, 60.0
"""Between two lines of a log about the same phase; of one of many images, between any two."""

log = logging.getLogger(__name__)


class ProgressBar:
    """Shows the phase and share of a picture's making: a bar on a terminal, lines in a log.

    Args:
        is_one_of_many: no bar, and lines only about what takes long.
    """

    def __init__(self, name: str, is_one_of_many: bool = False) -> None:
        self.name, self.is_one_of_many = name, is_one_of_many
        self.phase, self.told_s = "", time.monotonic()
        layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        has_bar = sys.stderr.isatty() and not is_one_of_many
        self.bar = tqdm(total=1.0, bar_format=layout, leave=False, disable=not has_bar)

    def report(self, phase: str, share: float) -> None:
        """Show the phase and the share of it that is done, 0 to 1."""
        is_new, self.phase = phase != self.phase, phase
        if self.bar.disable:
            self._log(share, is_new)
            return
        if is_new:
            self.bar.reset(total=1.0)
            self.bar.set_description_str(f"{self.name}: {phase}")
        self.bar.update(share - self.bar.n)

    def _log(self, share: float, is_new: bool) -> None:
        now, every_s = time.monotonic(), LOG_EVERY_S
        if self.is_one_of_many:
            is_new, every_s = False, ACTOR_LOG_EVERY_S
        if is_new or now - self.told_s >= every_s:
            log.info("%s: %s%s", self.name, self.phase, f" {share:.0%}" if share else "")
            self.told_s = now

    def close(self) -> None:
        self.bar.close()
