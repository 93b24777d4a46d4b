"""What tyro is told about flags, and what it says about wrong ones, in one line."""

import re
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

OPTIONALS = ConstructorRegistry()
"""How a flag that may be left out is read: by its own type, since nobody types `None`."""

RULE = re.compile("[─╰╯-]+")
"""Ends a part of the parser's box; where a terminal has no such letters, hyphens do."""


@OPTIONALS.primitive_rule
def _optional(given: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    kinds = [kind for kind in typing.get_args(given.type) if kind is not types.NoneType]
    is_optional = typing.get_origin(given.type) in (types.UnionType, typing.Union)
    if is_optional and kinds == [tuple[int, int, int, int]]:
        return _box()
    if is_optional and len(kinds) == 1 and typing.get_origin(kinds[0]) is typing.Literal:
        return _choice(typing.get_args(kinds[0]))
    if not is_optional or len(kinds) != 1 or kinds[0] not in (str, int, float):
        return None
    (kind,) = kinds
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=lambda words: kind(words[0]),
        is_instance=lambda value: value is None or isinstance(value, kind),
        str_from_instance=lambda value: [str(value)],
    )


def _choice(choices: tuple[str, ...]) -> PrimitiveConstructorSpec[Any]:
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(choices) + "}",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: value is None or value in choices,
        str_from_instance=lambda value: [str(value)],
        choices=choices,
    )


def _box() -> PrimitiveConstructorSpec[Any]:
    return PrimitiveConstructorSpec(
        nargs=4,
        metavar="Y0 Y1 X0 X1",
        instance_from_str=lambda words: tuple(int(word) for word in words),
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: [str(edge) for edge in value or ("None",)],
    )


def one_line(box: str) -> str:
    """The box that tyro draws around an error, as a line: what is wrong, and where help is."""
    *problems, remedy = _parts(box)
    said = [_said(part) for part in problems if part[0] != "Argument helptext:"]
    see = " ".join(" ".join(remedy).split())
    return "; ".join([*said, re.sub(".*?(run|see):? +", "see ", see)])


def _parts(box: str) -> Iterator[list[str]]:
    """The lines between two rules, without what follows a blank line and without the title."""
    part: list[str] = []
    for line in [*box.splitlines()[1:], "-"]:
        words = re.sub("^(│ |  )", "", line).rstrip(" │")
        if not RULE.fullmatch(words.strip()):
            part.append(words)
        elif part:
            yield part[: part.index("") if "" in part else None]
            part = []


def _said(part: Sequence[str]) -> str:
    """A part as a sentence: its text, and the flags that stand indented below it."""
    text = " ".join(line for line in part if not line.startswith(" ")).rstrip(".")
    flags = [line.split()[0].rstrip(",") for line in part if re.match(r" {4}\S", line)]
    if text == "Perhaps you meant:":
        return f"perhaps you meant {flags[0]}"
    text = re.sub("^Missing from .*:$", "missing:", text)
    # A class is our own, and its message says all: `Error parsing Options: ...`.
    text = re.sub(r"^Error parsing (?:[A-Za-z_][^ ]*[a-z][^ ]*: )?", "", text)
    return " ".join([text[:1].lower() + text[1:], ", ".join(flags)]).strip()
