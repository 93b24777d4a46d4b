"""Product code is plain English: docs/glossary.md names the words that it does not use.

What its docstrings point to is there.
"""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = [path for room in ("sddusr", "pipelines", "tune") for path in (ROOT / room).rglob("*.py")]


def banned_words() -> list[str]:
    """The left column of the glossary's last table."""
    table = (ROOT / "docs" / "glossary.md").read_text().rpartition("| not | but |")[2]
    return [row.split("|")[1].strip() for row in table.splitlines()[2:] if row.startswith("|")]


def test_the_glossary_bans_words():
    assert "courier" in banned_words()


@pytest.mark.parametrize("word", banned_words())
def test_no_banned_word_is_in_the_code(word):
    pattern = re.compile(rf"\b{re.escape(word)}", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in CODE
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if pattern.search(line)
    ]
    assert found == []


REFERENCE = re.compile(r"`([a-z_]+)\.(\w+)[\w.]*(?:\([^`]*\))?`")
"""`module.name`, also of another package or of a variable."""


def module_name(path: Path) -> str:
    return path.parent.name if path.stem == "__init__" else path.stem


def names_of(path: Path) -> set[str]:
    """What a module defines and uses; of a package, its modules too."""
    found = set[str]()
    if path.stem == "__init__":
        found |= {other.stem for other in path.parent.iterdir()}
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.alias(name=name):
                found.add(name)
    return found


def exists(path: Path, head: str, name: str) -> bool:
    """Whether the head is a variable or another package, or a module of ours that has the name."""
    if name in ("json", "py") or head in names_of(path):
        return True
    modules = [other for other in CODE if module_name(other) == head]
    found = any(name in names_of(other) for other in modules)
    return found if modules else importlib.util.find_spec(head) is not None


def test_docstrings_point_to_what_is_there():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {head}.{name}"
        for path in CODE
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        for head, name in REFERENCE.findall(line)
        if not exists(path, head, name)
    ]
    assert found == []
