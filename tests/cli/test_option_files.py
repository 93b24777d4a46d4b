"""Every command reads its flags from a file, too; flags on the command line win."""

import argparse
import json
import re
import sys
from pathlib import Path

import pytest

from pipelines.demo import DemoOptions
from pipelines.evaluate import EvaluateOptions
from pipelines.preprocess import PreprocessOptions
from pipelines.report import ReportOptions
from pipelines.super_resolve import SuperResolveOptions
from pipelines.tracking.command import MirrorOptions
from pipelines.train import TrainOptions
from sddusr.cli import command_line
from sddusr.cli import main as command
from sddusr.config import PAPER
from sddusr.config.arguments import parse_args
from tune.options import SearchOptions

ROOT = Path(__file__).parents[2]


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return str(path)


def given(monkeypatch, capsys, kind, *words: str):
    """The options of a command line; where it is wrong, what is said."""
    found: list = []
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(SystemExit) as end:
        command_line.run(found.append, kind)
    return found[0] if found else (end.value.code, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("kind", "text", "words", "expected"),
    [
        (
            PreprocessOptions,
            "layout: pairs\nroot: a\nout: b\npair: {min-box-px: 96}\nhold-out: 3\n",
            ["--hold-out", "5"],
            {"layout": "pairs", "root": "a", "hold_out": 5, "pair.min_box_px": 96},
        ),
        (PreprocessOptions, "root: a\nout: b\n", ["pairs"], {"layout": "pairs", "root": "a"}),
        (
            EvaluateOptions,
            "data: d\ncheckpoint: c\nprotocols: [y]\nbaselines: false\nlimit: 2\ntrust: 1\n",
            ["--data", "e"],
            {"data": "e", "protocols": ("y",), "baselines": False, "limit": 2, "trust": 1.0},
        ),
        (
            EvaluateOptions,
            "data: d\ncheckpoint: c\nbaselines: false\nlimit: null\n",
            ["--baselines", "--protocols", "png8", "y"],
            {"baselines": True, "protocols": ("png8", "y"), "limit": None},
        ),
        (ReportOptions, "results: [a, b]\nmax-mb: 3\n", [], {"results": ("a", "b"), "max_mb": 3}),
        (ReportOptions, "results: [a, b]\n", ["c"], {"results": ("c",)}),
        (
            SuperResolveOptions,
            "wide: w\ntele: t\nbox: [0, 4, 0, 8]\nmemory: 4GB\n",
            ["--memory", "1GB"],
            {"wide": "w", "tele": "t", "box": (0, 4, 0, 8), "memory": "1GB"},
        ),
        (MirrorOptions, "wait-s: 5\n", ["run"], {"runs": ("run",), "wait_s": 5}),
        (DemoOptions, "out: o\noptim.lr: 1.0e-3\n", [], {"out": "o"}),
        (DemoOptions, "train.num-steps: 7\n", [], {"config.train.num_steps": 7}),
    ],
)
def test_a_file_gives_flags_and_flags_win(
    monkeypatch, capsys, tmp_path, kind, text, words, expected
):
    options = given(monkeypatch, capsys, kind, "--config", written(tmp_path, text), *words)
    for path, value in expected.items():
        found = options
        for name in path.split("."):
            found = getattr(found, name)
        assert found == value, path


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("chekpoint: a\n", "this command has no option chekpoint, it has baselines, checkpoint"),
        ("data: d\nlimit: many\n", "field limit is 'many', need an integer"),
        ("data: 2:4\n", "field data is '124', need a text (in quotes)"),
        ("data: d\nprotocols: y\n", "field protocols is y, need a list"),
        ("data: d\nprecision: float8\n", "field precision is 'float8', need one of"),
        ("data: d\nlimit: 0\ncheckpoint: c\n", "--limit is 0"),
        ("checkpoint: c\n", "no --data; without it, need --sr-dir and --metrics"),
        ("model: {dim: 3}\n", "this command has no option model"),
        ("preset: paper\n", "names the preset paper, this command takes none"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(monkeypatch, capsys, tmp_path, text, line):
    path = written(tmp_path, text)
    code, error = given(monkeypatch, capsys, EvaluateOptions, "--config", path)
    assert code == 2
    assert line in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("kind", [TrainOptions, SearchOptions])
def test_a_preset_takes_flags_and_config_from_one_file(monkeypatch, tmp_path, kind):
    found: list = []
    text = "preset: paper\ndata: shards\ndata.crop-px: 48\nname: mine\nmodel: {dim: 32}\n"
    path = written(tmp_path, text)
    monkeypatch.setattr(sys, "argv", ["command", "--config", path, "--name", "other"])
    presets = {"demo": kind(), "paper": kind(preset="paper", config=PAPER)}
    with pytest.raises(SystemExit):
        command_line.run_with_presets(found.append, presets, dict.fromkeys(presets, "A preset."))
    (options,) = found
    assert (options.data, options.name, options.preset) == ("shards", "other", "paper")
    assert (options.config.data.crop_px, options.config.model.dim) == (48, 32)
    assert options.config.optim == PAPER.optim


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["upscale", "w.jpg", "t.jpg"], {"wide": "w.jpg", "quality": 90}),
        (["upscale", "w.jpg", "t.jpg", "--quality", "80"], {"tele": "t.jpg", "quality": 80}),
        (["export"], {"checkpoint": "mine", "out": "package", "to": "pt2"}),
        (["export", "other", "--out", "p"], {"checkpoint": "other", "out": "p", "to": "pt2"}),
    ],
)
def test_upscale_and_export_read_a_file(monkeypatch, tmp_path, words, expected):
    name, *rest = words
    text = {"upscale": "quality: 90\n", "export": "checkpoint: mine\nout: package\nto: pt2\n"}
    found: list = []
    monkeypatch.setattr(command, "run", found.append)
    words = ["sddusr", name, "--config", written(tmp_path, text[name]), *rest]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        command.main()
    assert {field: getattr(found[0], field) for field in expected} == expected


def test_help_names_the_flag(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command", "--help"])
    with pytest.raises(SystemExit):
        command_line.run(print, EvaluateOptions)
    assert "--config FILE reads flags" in capsys.readouterr().out


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    made.add_argument("place")
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("--size", type=int, nargs=2, default=(1, 2))
    made.add_argument("--quick", action="store_true")
    made.add_argument("--preset", choices=("a", "b"), default="a")
    return made


def test_argparse_reads_a_file_and_flags_win(tmp_path):
    text = "place: here\nout: o\nsize: [3, 4]\nquick: true\npreset: b\n"
    path = written(tmp_path, text)
    made = parse_args(parser(), ["--config", path, "--preset", "a"])
    assert (made.place, made.out, made.size) == ("here", Path("o"), [3, 4])
    assert (made.quick, made.preset) == (True, "a")
    assert parse_args(parser(), [f"--config={path}", "there"]).place == "there"
    assert parse_args(parser(), ["there", "--out", "p"]).size == (1, 2)


def test_an_abbreviated_flag_does_not_pass_the_file_by(tmp_path, capsys):
    path = written(tmp_path, "size: [3, 4]\n")
    with pytest.raises(SystemExit, match="2"):
        parse_args(parser(), ["there", "--out", "p", "--conf", path])
    assert "unrecognized arguments: --conf" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("speed: 3\n", "has no option speed"),
        ("size: 3\n", "size is '3', need a list of 2"),
        ("size: [a, b]\n", "invalid literal"),
        ("quick: 1\n", "need true or false"),
        ("preset: c\n", "need one of a, b"),
        ("out: [x]\n", "need one value"),
    ],
)
def test_a_wrong_file_of_an_argparse_command_is_one_line(tmp_path, capsys, text, line):
    with pytest.raises(SystemExit, match="2"):
        parse_args(parser(), ["--config", written(tmp_path, text)])
    error = capsys.readouterr().err
    assert line in error
    assert len(error.splitlines()) == 1


def test_no_command_parses_its_words_past_the_file():
    """A `parser.parse_args()` of argparse's own, or tyro.cli, would not know --config."""
    own = ("sddusr/config/arguments.py", "sddusr/cli/command_line.py")
    for folder in ("sddusr", "pipelines", "tune", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.relative_to(ROOT).as_posix() not in own:
                assert not re.search(r"\.parse_args\(|tyro\.cli\(", path.read_text()), path


def test_a_file_of_json_works_without_pyyaml(monkeypatch, capsys, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"data": "d", "checkpoint": "c"}))
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert given(monkeypatch, capsys, EvaluateOptions, "--config", str(path)).data == "d"
