"""`--config FILE` for commands that use argparse."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from sddusr.config.files import ConfigFile, read_config

FLAG = "--config"


def parse_args(
    parser: argparse.ArgumentParser, args: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parse a command line; `--config FILE` gives flags by name, the command line wins.

    What is wrong with the file ends the process, as what is wrong with a flag does.
    """
    args = sys.argv[1:] if args is None else args
    parser.allow_abbrev = False  # --conf would be taken for --config after the file was looked for
    parser.add_argument(FLAG, metavar="FILE", help="flags from a YAML or JSON file; others win")
    alone = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    alone.add_argument(FLAG)
    path = alone.parse_known_args(args)[0].config
    if path is not None:
        try:
            _set_defaults(parser, read_config(path))
        except (OSError, ValueError) as error:
            parser.exit(2, f"error: {error}\n")
    return parser.parse_args(args)


def _set_defaults(parser: argparse.ArgumentParser, file: ConfigFile) -> None:
    """Make the file's values what the flags are where the command line does not name them."""
    flags = {
        action.dest: action
        for action in parser._actions
        if action.dest not in ("help", FLAG.lstrip("-"))
    }
    preset = {} if file.preset is None else {"preset": file.preset}
    for name, value in (preset | file.options | file.values).items():
        if name not in flags:
            raise ValueError(
                f"{file.path}: this command has no option {name}, it has {', '.join(sorted(flags))}"
            )
        action = flags[name]
        try:
            parser.set_defaults(**{name: _converted(action, value)})
        except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"{file.path}: {name} is {str(value)[:40]!r}, {error}") from error
        action.required = False
        if not action.option_strings and action.nargs is None:
            action.nargs = "?"


def _converted(action: argparse.Action, value: Any) -> Any:
    """A value of the file as the flag would give it.

    Raises:
        TypeError, ValueError: of another kind.
    """
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError("need true or false")
        return value
    if action.nargs is None or action.nargs == "?":
        return _one(action, value)
    number = action.nargs if isinstance(action.nargs, int) else None
    if not isinstance(value, list) or number not in (None, len(value)):
        raise ValueError(f"need a list{f' of {number}' if number else ''}")
    return [_one(action, item) for item in value]


def _one(action: argparse.Action, value: Any) -> Any:
    if isinstance(value, bool | list | dict):
        raise ValueError("need one value")
    made = action.type(str(value)) if callable(action.type) else str(value)
    if action.choices is not None and made not in action.choices:
        raise ValueError(f"need one of {', '.join(map(str, action.choices))}")
    return made
