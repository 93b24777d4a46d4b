"""Flags of `sddusr upscale --runtime onnx` and `sddusr schema`, before anything is read."""

import json

import pytest

from sddusr.photos.options import UpscaleOptions
from tests.cli.test_main import run


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"runtime": "onnx"}, "--runtime onnx needs --model"),
        ({"model": "package"}, "--model goes with --runtime onnx"),
        ({"runtime": "onnx", "model": "p", "checkpoint": "c"}, "--checkpoint goes with"),
        ({"runtime": "onnx", "model": "p", "matching": "fast"}, "searches exactly"),
        ({"runtime": "onnx", "model": "p", "precision": "bfloat16"}, "has its own"),
        ({"runtime": "onnx", "model": "p", "device": "cuda"}, "runs on the CPU"),
    ],
)
def test_flags_of_the_other_runtime_are_refused(flags, line):
    with pytest.raises(ValueError, match=line):
        UpscaleOptions(**flags).check()


def test_schema_is_json(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "schema")
    assert code == 0
    assert json.loads(out)["properties"]["model"]["properties"]["dim"]["type"] == "integer"


def test_a_folder_of_something_else_is_not_overwritten(monkeypatch, capsys, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    code, _, error = run(monkeypatch, capsys, "export", "compact", "--out", str(tmp_path))
    assert code == 2
    assert "holds files that are no package" in error
    assert (tmp_path / "note.txt").read_text() == "mine"
