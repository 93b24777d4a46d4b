"""`--config FILE`: a command's flags, and a training config, from a YAML or JSON file."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

import tyro

from sddusr.config import Config, from_dict, to_dict
from sddusr.config.files import ConfigFile, merged, read_config
from sddusr.config.serialization import typed_value

HELP = """
--config FILE reads a part of the config from a YAML or JSON file, or all of it from a run's or a
checkpoint's own config.json, and the command's other flags; flags win over it. `sddusr schema`
prints the schema for editors.
"""

OPTIONS_HELP = """
--config FILE reads flags, named as here, from a YAML or JSON file; flags win over it.
"""


def take_config(args: Sequence[str]) -> tuple[list[str], ConfigFile | None]:
    """The words without `--config FILE`, and that file.

    Raises:
        FileNotFoundError, ValueError: see `read_config`; or the flag has no file, or comes twice.
    """
    rest, path = [], None
    words = iter(args)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag != "--config":
            rest.append(word)
            continue
        if path is not None:
            raise ValueError("--config is given twice; merge the files")
        path = value if equals else next(words, None)
        if not path:
            raise ValueError("--config needs a file, such as --config run.yaml")
    return rest, None if path is None else read_config(path)


def chosen_preset(
    presets: dict[str, Any], args: list[str], file: ConfigFile
) -> tuple[dict[str, Any], list[str]]:
    """The presets with the file's values in one of them; the file's preset where none is named.

    Raises:
        ValueError: another preset than the file's is named, one that is not there, or `filled`.
    """
    named = args[0] if args and not args[0].startswith("-") else None
    preset = named or file.preset or "demo"
    if preset not in presets:
        raise ValueError(f"no preset is named {preset!r}, need one of {', '.join(presets)}")
    if named is not None and file.preset not in (None, named):
        raise ValueError(f"{file.path} is for the preset {file.preset}, the command names {named}")
    file = file._replace(preset=None)
    return presets | {preset: filled(presets[preset], file)}, args if named else [preset, *args]


def filled(options: Any, file: ConfigFile) -> Any:
    """A command's options with the file's values, to be the defaults of its flags.

    What neither has is `tyro.MISSING`, so the instance goes through no check of its class yet.

    Args:
        options: a dataclass, or an instance with the file's defaults. Its field
            `config` takes the parts of a training config, which stand at the file's top.

    Raises:
        ValueError: an option that is not there, or a value that it does not take.
    """
    kind = options if isinstance(options, type) else type(options)
    hints = typing.get_type_hints(kind, include_extras=True)
    parts = {field.name for field in dataclasses.fields(Config)} if "config" in hints else set()
    names = hints.keys() - {"config", "preset"}
    _check_names(file, names, parts)
    values = {field.name: _default(field, options) for field in dataclasses.fields(kind)}
    for name, value in file.options.items():
        if name in names:
            values[name] = _typed(hints[name], value, values[name], name, file)
    config_values = {}
    for name, value in file.values.items():
        if name in parts:
            config_values[name] = value
        else:
            values[name] = _typed(hints[name], value, values[name], name, file)
    if parts:
        config_file = file._replace(values=config_values)
        values["config"] = config_file.applied(values["config"], names)
    made = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def _check_names(file: ConfigFile, names: set[str], parts: set[str]) -> None:
    given = [*file.options, *file.values]
    if unknown := [name for name in given if name not in names | parts]:
        raise ValueError(
            f"{file.path}: this command has no option {unknown[0]}, it has "
            f"{', '.join(sorted(names | parts))}"
        )
    if file.preset is not None:
        raise ValueError(f"{file.path}: names the preset {file.preset}, this command takes none")


def _default(field: dataclasses.Field, options: Any) -> Any:
    if not isinstance(options, type):
        return getattr(options, field.name)
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return tyro.MISSING


def _typed(hint: Any, value: Any, default: Any, name: str, file: ConfigFile) -> Any:
    """A value of the file as its flag's type."""
    try:
        if dataclasses.is_dataclass(default):
            tree = merged(to_dict(default), value) if isinstance(value, dict) else value
            return from_dict(type(default), tree, name)
        return typed_value(hint, value, name)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from error
