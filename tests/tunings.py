"""Other sizes of pieces for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from sddusr.model.tuning import CPU, TUNINGS, Tuning


@contextmanager
def tuned(base: Tuning = CPU, **sizes: Any) -> Iterator[None]:
    """Inside, the CPU cuts its work so; with `GPU` as the base it takes a GPU's paths."""
    with mock.patch.dict(TUNINGS, {"cpu": replace(base, **sizes)}):
        yield
