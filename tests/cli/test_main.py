"""The command `sddusr`, and what a command says where its extra is not installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sddusr.cli import main as command
from sddusr.cli.extras import require
from sddusr.imaging.images import read_picture, write_png
from tests.photos.test_api import TELE, WIDE

ROOT = Path(__file__).parents[2]


def run(monkeypatch, capsys, *args: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["sddusr", *args])
    code = 0
    try:
        command.main()
    except SystemExit as end:
        code = int(end.code or 0)
    told = capsys.readouterr()
    return code, told.out, told.err


def test_version_and_info(monkeypatch, capsys):
    assert run(monkeypatch, capsys, "--version")[1].startswith("sddusr ")
    code, out, _ = run(monkeypatch, capsys, "info")
    assert code == 0
    assert "compact" in out
    assert "dictionary.num_tokens = " in out


def test_upscale_writes_the_image_and_says_what_was_done(monkeypatch, capsys, tmp_path):
    for name, pixels in (("wide", WIDE), ("tele", TELE)):
        write_png(str(tmp_path / f"{name}.png"), pixels)
    given = [str(tmp_path / f"{name}.png") for name in ("wide", "tele")]
    out = str(tmp_path / "sr.png")
    code, told, _ = run(monkeypatch, capsys, "upscale", *given, "--out", out, "--centered")
    assert code == 0
    assert told.splitlines()[0] == out
    assert "put in the middle" in told
    assert read_picture(out).pixels.shape == (192, 256, 3)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["upscal"], "error: no command is named 'upscal', need one of upscale, info"),
        (["upscale", "a.png"], "missing: TELE"),
        (["upscale", "a.png", "b.png", "--quality", "0"], "error: --quality is 0, need 1 to 100"),
        (["info", "no/such/run"], "networks that ship: compact"),
        (
            ["info", "models:/sddusr-demo@best"],
            "mlflow artifacts download --artifact-uri models:/sddusr-demo@best --dst-path DIR",
        ),
        (
            ["upscale", "a.png", "b.png", "--checkpoint", "runs:/abc/sddusr-demo"],
            "mlflow artifacts download --artifact-uri runs:/abc/sddusr-demo --dst-path DIR",
        ),
    ],
)
def test_bad_input_is_one_line_and_code_2(monkeypatch, capsys, args, line):
    code, _, error = run(monkeypatch, capsys, *args)
    assert code == 2
    assert line in error
    assert len(error.splitlines()) == 1


def test_help_begins_with_what_it_does_and_three_examples(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "upscale", "--help")
    assert code == 0
    assert out.index("Make a wide image twice as large") < out.index("sddusr upscale wide.jpg")
    assert out.count("sddusr upscale wide.") >= 3


def test_a_missing_extra_is_named_with_the_command_that_installs_it(capsys):
    require("pipeline", "numpy")
    with pytest.raises(SystemExit) as end:
        require("pipeline", "numpy", "no_such_package")
    assert end.value.code == 2
    assert "no_such_package not installed" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["pipelines/train.py", "tune/search_tokens.py"])
def test_a_command_without_its_extra_says_which_to_install(script):
    hidden = f"""
import importlib.util, runpy, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *_: None if name in ("ray", "optuna") else real(name, *_)
sys.path[:] = [path for path in sys.path if path not in ("", {str(ROOT)!r})]
sys.argv = [{script!r}, "--help"]
runpy.run_path({str(ROOT / script)!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "pip install 'sddusr[pipeline]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_schema_names_every_field_of_the_config(monkeypatch, capsys):
    code, printed, _ = run(monkeypatch, capsys, "schema")
    assert code == 0
    properties = json.loads(printed)["properties"]
    assert {"model", "losses", "optim", "data", "train", "preset"} <= properties.keys()
    assert "write_rate" in properties["model"]["properties"]["dictionary"]["properties"]
