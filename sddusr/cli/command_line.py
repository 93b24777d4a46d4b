"""What every command shares: typed flags, one clear line for bad input, exit codes, log lines."""

import inspect
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import is_dataclass
from typing import Any, NoReturn, TypeVar

import tyro

from sddusr.cli.flags import OPTIONALS, one_line
from sddusr.cli.option_files import HELP, OPTIONS_HELP, chosen_preset, filled, take_config
from sddusr.secrets import has_credentials, mask

T = TypeVar("T")

INTERRUPTED = 130

USER_ERRORS = (ValueError, OSError)
"""What bad input, disks and networks raise; anything else is a bug and keeps its traceback."""


class StoppedError(Exception):
    """The command was asked to end, and saved before it did."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
        """As a shell counts a process that a signal ended: 143 for SIGTERM, 130 for Ctrl-C."""


def run(
    main: Callable[[T], int | None],
    options: Any,
    *,
    args: Sequence[str] | None = None,
    description: str | None = None,
) -> None:
    """Parse the command line into `options`, call `main`, and exit.

    Exit codes: 0, `main`'s own, 2 with one line on stderr for bad input, or 128 and the signal's
    number where a signal ended it; docs/exit-codes.md has them all. `--config FILE` reads flags
    from a file, where `options` is a dataclass; flags on the command line win.

    Args:
        description: what `--help` begins with; by default the docstring of `options`.
    """
    mask_streams()
    log_lines()
    default = None
    if isinstance(options, type) and is_dataclass(options):
        args, default = with_file(options, sys.argv[1:] if args is None else args)
        description = f"{description or inspect.cleandoc(options.__doc__ or '')}\n{OPTIONS_HELP}"
    parsed = parse(options, args, description, default)
    _warn_of_credentials()
    try:
        sys.exit(main(parsed) or 0)
    except StoppedError as stopped:
        logging.getLogger(__name__).warning("%s", stopped)
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:
        print("error: interrupted; the same command resumes, or starts over", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except USER_ERRORS as error:
        if os.environ.get("SDDUSR_TRACEBACK"):
            traceback.print_exception(error)
        refuse(str(error))


COMPLETION = ("--tyro-print-completion", "--tyro-write-completion")


def run_with_presets(
    main: Callable[[Any], int | None],
    presets: dict[str, Any],
    described: dict[str, str],
    description: str | None = None,
) -> None:
    """Run a command whose first word names a preset; the default is `demo`.

    `--config FILE` changes the presets' configs first, so flags win over the file.
    """
    try:
        args, file = take_config(sys.argv[1:])
        if file is not None:
            presets, args = chosen_preset(presets, args, file)
    except USER_ERRORS as error:
        refuse(str(error))
    if args and not args[0].startswith("-") and args[0] not in presets:
        refuse(f"no preset is named {args[0]!r}, need one of {', '.join(presets)}")
    if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help", *COMPLETION)):
        args = ["demo", *args]
    kind = tyro.extras.subcommand_type_from_defaults(presets, described)
    run(main, kind, args=args, description=f"{description or ''}{HELP}")


def with_file(options: Any, args: Sequence[str]) -> tuple[list[str], Any]:
    """The words without `--config FILE`, and the dataclass `options` with the file's values.

    Without a file, no values: None. What is wrong with the file ends the process.
    """
    try:
        rest, file = take_config(args)
        return rest, None if file is None else filled(options, file)
    except USER_ERRORS as error:
        refuse(str(error))


def refuse(problem: str) -> NoReturn:
    """End the process over bad input."""
    print(f"error: {problem}", file=sys.stderr)
    sys.exit(2)


def parse(
    options: Any,
    args: Sequence[str] | None = None,
    description: str | None = None,
    default: Any = None,
) -> Any:
    """The command line as `options`; what is wrong with it ends the process, as `run` says.

    Args:
        default: an instance of `options`; flags override its values.
    """
    message = io.StringIO()
    given = {"default": default} if default is not None else {}
    try:
        with redirect_stderr(message):
            return tyro.cli(
                options, args=args, description=description, registry=OPTIONALS, **given
            )
    except SystemExit as end:
        if end.code:
            print(f"error: {one_line(message.getvalue())}", file=sys.stderr)
        raise


class MaskedStream:
    """A text stream that shows no credentials, whoever writes to it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(mask(text))
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def mask_streams() -> None:
    """Mask credentials in all that this process prints: results, logs, errors and tracebacks."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, MaskedStream):
            setattr(sys, name, MaskedStream(stream))


def _warn_of_credentials() -> None:
    """Other users of the machine see a command's flags, whatever is masked."""
    given = [*sys.argv[1:], os.environ.get("MLFLOW_TRACKING_URI", "")]
    if any(has_credentials(text) for text in given):
        logging.getLogger(__name__).warning(
            "there are credentials in a URI, which other users of this machine can see; give them "
            "by environment variables or a profile instead (MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, AWS_PROFILE)"
        )


def log_lines() -> None:
    """Log to stderr, each line with its time; Ray passes an actor's on to the command."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
