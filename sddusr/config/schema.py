"""The config as a JSON schema, with which editors complete and check config files."""

import ast
import dataclasses
import inspect
import textwrap
import typing
from itertools import pairwise
from typing import Any

from sddusr.config.presets import PRESETS
from sddusr.config.training import Config

KINDS = {int: "integer", float: "number", bool: "boolean", str: "string"}


def config_schema() -> dict[str, Any]:
    """The schema of files for `--config`.

    As such a file does, it takes hyphens in a field's name, paths with points at the top, and there
    other flags of the command, too, which it cannot check.
    """
    schema = _object(Config)
    schema["properties"]["preset"] = {"enum": list(PRESETS), "description": "What it starts from."}
    schema["additionalProperties"] = True
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "SDDuSR training config",
        **schema,
    }


def _object(kind: type) -> dict[str, Any]:
    hints, described = typing.get_type_hints(kind, include_extras=True), _field_docs(kind)
    properties = {}
    for field in dataclasses.fields(kind):
        properties[field.name] = _value(hints[field.name])
        if text := described.get(field.name):
            properties[field.name]["description"] = text
    return {
        "type": "object",
        "description": inspect.cleandoc(kind.__doc__ or "").splitlines()[0],
        "properties": properties,
        "patternProperties": {
            f"^{name.replace('_', '-')}$": value
            for name, value in properties.items()
            if "_" in name
        },
        "additionalProperties": False,
    }


def _value(hint: Any) -> dict[str, Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _value(args[0])
    if dataclasses.is_dataclass(hint):
        return _object(typing.cast(type, hint))
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin is tuple:
        items = [_value(arg) for arg in args]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "items": False}
    return {"type": KINDS[hint]} if hint in KINDS else {}


def _field_docs(kind: type) -> dict[str, str]:
    """The text below each field of a config class."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    described = {}
    for field, below in pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                described[name] = " ".join(str(text).split())
    return described
