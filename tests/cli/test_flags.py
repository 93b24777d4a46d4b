"""What a user types wrongly is said in one line, with the way on; help fits a newcomer."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import tyro

from pipelines import train
from pipelines.evaluate import EvaluateOptions
from sddusr.cli import command_line


@dataclass(frozen=True, kw_only=True)
class Options:
    """An example."""

    picture: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PICTURE")]
    """A picture."""
    data: str
    """Shards that hold
    (in two lines) whatever is said about them in help."""
    limit: int | None = None
    """Only the first few."""
    kind: Literal["one", "other"] = "one"
    """Which."""

    def __post_init__(self) -> None:
        if self.limit == 0:
            raise ValueError("--limit is 0, need 1 or more")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "missing: PICTURE, --data"),
        ("a --data d --limit x", "--limit: invalid literal for int() with base 10: 'x'"),
        ("a --data d --limit 0", "--limit is 0, need 1 or more"),
        ("a --data d --limt 3", "unrecognized options: --limt, 3; perhaps you meant --limit"),
        ("a --dat d", "missing: --data; unrecognized options: --dat, d"),
        (
            "a --data d --kind third",
            "invalid choice 'third' for argument '--kind'. Expected one of",
        ),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(typed, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        command_line.parse(Options, typed.split())
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(f"error: {said}")
    assert line.endswith(" --help")
    assert "  " not in line


def test_a_flag_that_may_be_left_out_is_read_by_its_own_type(capsys):
    assert command_line.parse(Options, ["a", "--data", "d"]).limit is None
    assert command_line.parse(Options, ["a", "--data", "d", "--limit", "3"]).limit == 3
    with pytest.raises(SystemExit, match="0"):
        command_line.parse(EvaluateOptions, ["--help"])
    told = capsys.readouterr().out
    assert "--limit INT" in told
    assert "{None}" not in told


def test_help_of_training_lists_presets_and_the_default(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        train.command()
    told = capsys.readouterr().out
    for preset in ("demo", "paper", "baseline", "sfm"):
        assert preset in told
    assert "without one it is demo" in told


def test_a_wrong_preset_is_answered_with_the_right_ones(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "papr", "--data", "d"])
    with pytest.raises(SystemExit, match="2"):
        train.command()
    assert "no preset is named 'papr', need one of demo, compact, paper, baseline, sfm" in (
        capsys.readouterr().err
    )


def test_the_shell_can_complete_flags(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--tyro-print-completion", "bash"])
    with pytest.raises(SystemExit) as end:
        train.command()
    assert not end.value.code
    script = capsys.readouterr().out
    assert "--model.dictionary.num-tokens" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_a_traceback_is_shown_where_it_is_asked_for(capsys, monkeypatch):
    def fails(options: Options) -> None:
        raise ValueError("no such picture")

    monkeypatch.setenv("SDDUSR_TRACEBACK", "1")
    with pytest.raises(SystemExit, match="2"):
        command_line.run(fails, Options, args=["a", "--data", "d"])
    said = capsys.readouterr().err
    assert "in fails" in said
    assert said.endswith("\nerror: no such picture\n")
