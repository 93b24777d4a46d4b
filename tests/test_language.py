"""Product code is plain English: docs/glossary.md names the words that it does not use."""

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
