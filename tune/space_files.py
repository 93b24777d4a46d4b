"""From a name or a user's file to a space whose every value the config takes."""

import difflib
import runpy
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from sddusr.config import Config, flatten, to_dict
from sddusr.config.files import load_file
from sddusr.config.serialization import finite_number
from tune.space import (
    ATTENTION,
    DIMENSIONS,
    LAMBDA_1,
    LAMBDA_2,
    LAMBDA_3,
    QUANTILE,
    SPACES,
    TOKENS,
    Choices,
    Dimension,
    Range,
    Space,
    with_values,
)


def find_space(name: str, config: Config) -> Space:
    """A space of `SPACES`, or a user's own from a YAML or Python file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such space, no such field of the config, or values that it does not take.
    """
    if name in SPACES:
        fields = [field for field in SPACES[name] if has_effect(field, config)]
        if not fields:
            raise ValueError(
                f"--space {name}: nothing of it acts in this config, whose mask or dictionary is "
                f"off; take another preset or space"
            )
        return checked({field: DIMENSIONS[field] for field in fields}, config, name)
    if Path(name).suffix not in (".yaml", ".yml", ".py"):
        raise ValueError(
            f"--space is {name!r}, need one of {', '.join(SPACES)}, or a .yaml or .py file"
        )
    if not Path(name).is_file():
        raise FileNotFoundError(f"--space: no file {name}")
    return checked(parsed(_content(Path(name)), name), config, name)


def has_effect(field: str, config: Config) -> bool:
    """Whether a field of `DIMENSIONS` changes anything in runs of this config."""
    if field in (LAMBDA_2, LAMBDA_3):
        return config.losses.stage == "full"
    if field in (LAMBDA_1, QUANTILE):
        return config.model.mask.enabled
    if field in (TOKENS, ATTENTION):
        return config.model.dictionary.enabled
    return True


def _content(path: Path) -> Any:
    """What a file says; a Python file runs as part of this process.

    Raises:
        ValueError: not text, not YAML, YAML with aliases, or Python code that raises.
    """
    if path.suffix == ".py":
        return _run_python(path)
    return load_file(path)


def _run_python(path: Path) -> Any:
    try:
        content = runpy.run_path(str(path)).get("SPACE")
    except (Exception, SystemExit) as error:
        spec = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{path}: raised {spec:.200}") from error
    if content is None:
        raise ValueError(f"{path}: defines no SPACE; need SPACE = {{field: values}}")
    return content


def parsed(content: Any, source: str) -> dict[str, Dimension]:
    """{"model.dictionary.num-tokens": {"choices": [64, 128]}, ...}; a plain list is choices too.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{source}: need fields of the config, each with its values")
    if twice := _twice([str(field).lstrip("-").replace("-", "_") for field in content]):
        raise ValueError(f"{source}: {twice} is there twice; keep one")
    return {
        str(field).lstrip("-").replace("-", "_"): _dimension(spec, f"{source}: {field}")
        for field, spec in content.items()
    }


def _twice(names: list[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)


def _dimension(spec: Any, where: str) -> Dimension:
    if isinstance(spec, list | tuple):
        spec = {"choices": spec}
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise ValueError(f"{where} is {_short(spec)}, need one of choices, uniform or loguniform")
    ((kind, values),) = spec.items()
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"{where}: {kind} is {_short(values)}, need a list")
    if kind == "choices":
        return Choices(tuple(values))
    if kind not in ("uniform", "loguniform"):
        raise ValueError(f"{where}: {kind!r} is not known, need choices, uniform or loguniform")
    log = kind == "loguniform"
    try:
        low, high = (finite_number(value) for value in values)
    except ValueError as error:
        raise ValueError(
            f"{where}: {kind} is {_short(values)}, need two numbers [low, high]"
        ) from error
    if not low < high or (log and low <= 0):
        wanted = "0 < low < high" if log else "low < high"
        raise ValueError(f"{where}: {kind} is [{low:g}, {high:g}], need {wanted}")
    return Range(low, high, log)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def checked(dimensions: Mapping[str, Dimension], config: Config, source: str) -> Space:
    """The space, every value of its field's type and one that the config takes.

    Raises:
        ValueError: what does not fit, by name.
    """
    known = flatten(to_dict(config))
    fitted: dict[str, Dimension] = {}
    for field, dimension in dimensions.items():
        if field not in known:
            close = difflib.get_close_matches(field, known, 1, cutoff=0.0)[0]
            raise ValueError(f"{source}: {field} is no field of the config; is it {close}?")
        try:
            fitted[field] = _fitted(dimension, _hint(field))
            ends = fitted[field]
            for value in ends.values if isinstance(ends, Choices) else (ends.low, ends.high):
                with_values(config, {field: value})
        except ValueError as error:
            raise ValueError(f"{source}: {field}: {error}") from error
    return Space(fitted)


def _hint(field: str) -> Any:
    """The type of a field, as its dataclass declares it."""
    kind: Any = Config
    for part in field.split("."):
        kind = typing.get_type_hints(kind)[part]
    return kind


def _fitted(dimension: Dimension, hint: Any) -> Dimension:
    if isinstance(dimension, Choices):
        values = tuple(_value(value, hint) for value in dimension.values)
        if len(set(values)) < len(values):
            raise ValueError(f"{_short(list(values))} has a value twice")
        return Choices(values)
    if hint is not float:
        raise ValueError("a range needs a field of real numbers; list values under choices")
    return dimension


def _value(value: Any, hint: Any) -> Any:
    """The value as its field holds it.

    Raises:
        ValueError: another type.
    """
    wanted = getattr(hint, "__name__", str(hint))
    origin = typing.get_origin(hint)
    if origin is Literal:
        wanted = f"one of {', '.join(map(str, typing.get_args(hint)))}"
        if value in typing.get_args(hint):
            return value
    elif origin is tuple:
        kinds, wanted = typing.get_args(hint), str(hint)
        if isinstance(value, list | tuple) and len(value) == len(kinds):
            return tuple(_value(*pair) for pair in zip(value, kinds, strict=True))
    elif hint is float:
        return finite_number(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise ValueError(f"{_short(value)} does not fit, need {wanted}")
