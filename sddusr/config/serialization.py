"""Configs as nested dicts of JSON values, and back."""

import dataclasses
import math
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """A config as nested dicts of JSON values."""
    return dataclasses.asdict(config)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"dim": 64}} as {"model.dim": 64}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def from_dict(kind: type[T], tree: Any, path: str = "") -> T:
    """Rebuild a config from `to_dict`'s output, after a trip through JSON.

    Raises:
        ValueError: a field that this version does not know, or a value of another type.
    """
    if not isinstance(tree, dict):
        raise ValueError(f"config{path and ' of ' + path} is {str(tree)[:40]!r}, need an object")
    hints = typing.get_type_hints(kind)
    if unknown := tree.keys() - hints.keys():
        raise ValueError(
            f"config{path and ' of ' + path} has unknown fields {sorted(unknown)}; "
            f"{kind.__name__} knows {sorted(hints)}"
        )
    values = {}
    for name, value in tree.items():
        hint, below = hints[name], f"{path}.{name}".lstrip(".")
        if dataclasses.is_dataclass(hint):
            values[name] = from_dict(typing.cast(type, hint), value, below)
        else:
            values[name] = typed_value(hint, value, below)
    return kind(**values)


def typed_value(hint: Any, value: Any, path: str) -> Any:
    """A field's value, a tuple where JSON made a list of one; other types than ours pass as is.

    A text that says a number is taken where a real number is wanted, see `finite_number`.

    Raises:
        ValueError: a value of another type.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return typed_value(args[0], value, path)
    if origin in (types.UnionType, typing.Union) and types.NoneType in args:
        kinds = [kind for kind in args if kind is not types.NoneType]
        return value if value is None or len(kinds) > 1 else typed_value(kinds[0], value, path)
    if origin is tuple:
        return _tuple(args, value, path)
    if origin is typing.Literal:
        good, wanted = value in args, f"one of {', '.join(map(str, args))}"
    elif hint is int:
        good, wanted = type(value) is int, "an integer"
    elif hint is float:
        good, wanted = _is_finite(value), "a finite number"
        value = float(value) if good and isinstance(value, str) else value
    elif hint in (bool, str):
        good, wanted = type(value) is hint, {bool: "true or false", str: "a text (in quotes)"}[hint]
    else:
        return value
    if not good:
        raise ValueError(f"config field {path} is {str(value)[:40]!r}, need {wanted}")
    return value


def finite_number(value: Any) -> float:
    """A number, or a text that says one, as a float: PyYAML reads 1e-4, without a point, as text.

    Raises:
        ValueError: no finite number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{str(value)[:40]!r} is not a number")
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError(f"{str(value)[:40]}... is too large") from error
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not finite")
    return number


def _is_finite(value: Any) -> bool:
    try:
        finite_number(value)
    except ValueError:
        return False
    return True


def _tuple(kinds: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    any_length = kinds[1:] == (...,)
    is_list = isinstance(value, list | tuple)
    if not is_list or not (any_length or len(value) == len(kinds)):
        wanted = "a list" if any_length else f"{len(kinds)} values"
        raise ValueError(f"config field {path} is {str(value)[:40]}, need {wanted}")
    kinds = kinds[:1] * len(value) if any_length else kinds
    return tuple(typed_value(kind, item, path) for kind, item in zip(kinds, value, strict=True))
