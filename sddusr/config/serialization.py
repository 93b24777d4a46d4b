"""Configs as nested dicts of JSON values, and back."""

import dataclasses
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


def from_dict(kind: type[T], tree: dict[str, Any], path: str = "") -> T:
    """Rebuild a config from `to_dict`'s output, after a trip through JSON.

    Raises:
        ValueError: a field that this version does not know.
    """
    hints = typing.get_type_hints(kind)
    if unknown := tree.keys() - hints.keys():
        raise ValueError(
            f"config{path and ' of ' + path} has unknown fields {sorted(unknown)}; "
            f"{kind.__name__} knows {sorted(hints)}"
        )
    values = {}
    for name, value in tree.items():
        if dataclasses.is_dataclass(hints[name]):
            value = from_dict(typing.cast(type, hints[name]), value, f"{path}.{name}".lstrip("."))
        elif typing.get_origin(hints[name]) is tuple:
            value = tuple(value)
        values[name] = value
    return kind(**values)
