"""What every command shares: typed flags, one clear line for bad input, exit codes, log lines."""

import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import Any, NoReturn, TypeVar

import tyro

from sddusr.cli.flags import OPTIONALS, one_line

T = TypeVar("T")

USER_ERRORS = (ValueError, OSError)
"""What bad input, disks and networks raise; anything else is a bug and keeps its traceback."""


def run(
    main: Callable[[T], int | None],
    options: Any,
    *,
    args: Sequence[str] | None = None,
    description: str | None = None,
) -> None:
    """Parse the command line into `options`, call `main`, and exit.

    Exit codes: 0, `main`'s own, or 2 with one line on stderr for bad input.

    Args:
        description: what `--help` begins with; by default the docstring of `options`.
    """
    log_lines()
    parsed = parse(options, args, description)
    try:
        sys.exit(main(parsed) or 0)
    except USER_ERRORS as error:
        if os.environ.get("SDDUSR_TRACEBACK"):
            raise
        refuse(str(error))


def refuse(problem: str) -> NoReturn:
    """End the process over bad input."""
    print(f"error: {problem}", file=sys.stderr)
    sys.exit(2)


def parse(options: Any, args: Sequence[str] | None = None, description: str | None = None) -> Any:
    """The command line as `options`; what is wrong with it ends the process, as `run` says."""
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            return tyro.cli(options, args=args, description=description, registry=OPTIONALS)
    except SystemExit as end:
        if end.code:
            print(f"error: {one_line(told.getvalue())}", file=sys.stderr)
        raise


def log_lines() -> None:
    """Log to stderr, each line with its time; Ray passes an actor's on to the command."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
