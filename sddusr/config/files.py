"""A config or a command's options in a YAML or JSON file, or a config in a run's config.json."""

import ast
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sddusr.config.serialization import from_dict, to_dict
from sddusr.config.training import Config

MAX_BYTES = 2**20
"""A config is a few lines."""

SUFFIXES = (".yaml", ".yml", ".json")


class ConfigFile(NamedTuple):
    """What a file says about a config."""

    path: Path
    preset: str | None
    """The preset that its values change; None: it names none."""
    values: dict[str, Any]
    """Nested, names with underscores; any part of a config."""
    options: dict[str, Any]
    """Names at the top that hold no mapping, such as a command's flags."""

    def applied(self, config: Config, options: Collection[str] = ()) -> Config:
        """The config with the file's values.

        Args:
            options: names of `options` that are no part of the config.

        Raises:
            ValueError: a field that is not there, or a value that it does not take.
        """
        others = {name: value for name, value in self.options.items() if name not in options}
        try:
            return from_dict(Config, merged(to_dict(config), others | self.values))
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error


def read_config(path: str | Path) -> ConfigFile:
    """Read a config file.

    It holds any part of a config, nested (`model: {dim: 32}`) or dotted (`model.dim: 32`), and may
    name a `preset` to start from, and flags of the command (`steps: 7`). A checkpoint's config.json
    and a run's are such files, too.

    Raises:
        FileNotFoundError: there is none.
        ValueError: another kind of file, or not valid YAML or JSON.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--config is {str(path)!r}, need a file ending in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"--config: no file {path}")
    content = load_file(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: holds no mapping, need lines such as model.dim: 32")
    content = dict(content)
    if isinstance(content.get("params"), Mapping) and "key" in content:
        return ConfigFile(path, None, _of_run(content["params"]), {})
    if isinstance(content.get("config"), Mapping) and "format" in content:
        return ConfigFile(path, None, _nested(content["config"], path), {})
    preset = content.pop("preset", None)
    if preset is not None and not isinstance(preset, str):
        raise ValueError(f"{path}: preset is {str(preset)[:40]!r}, need a name such as paper")
    options: dict[str, Any] = {}
    for given in [name for name in content if "." not in str(name)]:
        if not isinstance(content[given], Mapping):
            _add(options, {str(given).replace("-", "_"): content.pop(given)}, path)
    return ConfigFile(path, preset, _nested(content, path), options)


def load_file(path: Path) -> Any:
    """What a YAML or JSON file of a user says, read without running anything.

    Raises:
        ValueError: too large, not text, not valid, or YAML with aliases.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, need at most {MAX_BYTES}")
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else _load_yaml(text, path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error


def _load_yaml(text: str, path: Path) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise ValueError(
            f"{path}: PyYAML is not installed; pip install 'sddusr[pipeline]', or write JSON"
        ) from None
    try:
        # An alias stands for all that its anchor holds, which may hold aliases again: a few
        # hundred bytes would take all memory there is.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError(f"{path}: has aliases (*name); write the values out")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"{path}: not valid YAML ({problem})") from error


def _nested(values: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    """Dotted names as nested ones, hyphens as underscores."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        value = _nested(value, path) if isinstance(value, Mapping) else value
        for part in reversed(str(name).replace("-", "_").split(".")):
            value = {part: value}
        _add(tree, value, path)
    return tree


def _add(tree: dict[str, Any], more: dict[str, Any], path: Path) -> None:
    """Put more values into a tree that has none of them."""
    for name, value in more.items():
        if name not in tree:
            tree[name] = value
        elif isinstance(tree[name], dict) and isinstance(value, dict):
            _add(tree[name], value, path)
        else:
            raise ValueError(f"{path}: {name} is given twice")


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with some values changed, however deep they lie."""
    result = dict(base)
    for name, value in changes.items():
        below = result.get(name)
        if isinstance(below, dict) and isinstance(value, dict):
            value = merged(below, value)
        result[name] = value
    return result


def _of_run(params: Mapping[str, str]) -> dict[str, Any]:
    """A config from the parameters of a run's config.json, which are texts with dotted names."""
    tree: dict[str, Any] = {}
    for name, text in params.items():
        *parents, last = name.split(".")
        if not parents:
            continue  # what a run notes beside its config, as the data's hash
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = _literal(text)
    return tree


def _literal(text: str) -> Any:
    """A number, truth value or tuple that was written as text; other texts as they are."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
