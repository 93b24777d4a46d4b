"""A config in a file: any part of it, flags win, a run's own files are such files."""

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import jsonschema
import pytest
import tyro
import yaml

from sddusr.cli import command_line
from sddusr.config import COMPACT, DEMO, PAPER, Config, flatten, to_dict
from sddusr.config.files import MAX_BYTES, read_config
from sddusr.config.schema import config_schema


@dataclass(frozen=True, kw_only=True)
class Options:
    """An example."""

    steps: int = 1
    """Steps."""
    preset: Annotated[str, tyro.conf.Suppress] = "demo"
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=lambda: DEMO)


PRESETS = {"demo": Options(), "paper": Options(preset="paper", config=PAPER)}


def parsed(monkeypatch, *words: str) -> Options:
    found: list[Options] = []
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(SystemExit) as end:
        command_line.run_with_presets(found.append, PRESETS, dict.fromkeys(PRESETS, "A preset."))
    assert end.value.code == 0
    return found[0]


def written(tmp_path, text: str, name: str = "run.yaml") -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        "model:\n  dim: 32\n  dictionary: {num-tokens: 16}\n",
        "model.dim: 32\nmodel.dictionary.num_tokens: 16\n",
        "model.dim: 32\nmodel:\n  dictionary.num-tokens: 16\n",
        '{"model": {"dim": 32, "dictionary": {"num_tokens": 16}}}',
    ],
)
def test_any_part_nested_or_dotted(tmp_path, text):
    name = "run.json" if text.startswith("{") else "run.yaml"
    config = read_config(written(tmp_path, text, name)).applied(DEMO)
    dictionary = replace(DEMO.model.dictionary, num_tokens=16)
    assert config == replace(DEMO, model=replace(DEMO.model, dim=32, dictionary=dictionary))


def test_a_number_without_a_point_is_a_number(monkeypatch, tmp_path):
    """PyYAML reads 1e-4 as text."""
    path = written(tmp_path, "optim.lr: 1e-4\nlosses: {mask-weight: 2E-3}\n")
    config = read_config(path).applied(DEMO)
    assert (config.optim.lr, config.losses.mask_weight) == (1e-4, 2e-3)
    assert parsed(monkeypatch, "--config", path).config == config


def test_flags_win_and_the_file_names_the_preset(monkeypatch, tmp_path):
    path = written(tmp_path, "preset: paper\nmodel.dim: 32\ntrain.num-steps: 7\n")
    options = parsed(monkeypatch, "--config", path, "--train.num-steps", "9", "--steps", "3")
    assert (options.preset, options.config.model.dim, options.steps) == ("paper", 32, 3)
    assert options.config.train.num_steps == 9
    assert options.config.losses == PAPER.losses
    assert parsed(monkeypatch, "paper", f"--config={path}").config.train.num_steps == 7
    unnamed = written(tmp_path, "model.dim: 32\n", "other.yml")
    assert parsed(monkeypatch, "--config", unnamed).preset == "demo"


def test_config_json_of_a_checkpoint_and_of_a_run(tmp_path):
    described = {"format": 1, "config": to_dict(COMPACT), "progress": {}}
    checkpoint = written(tmp_path, json.dumps(described), "config.json")
    assert read_config(checkpoint).applied(PAPER) == COMPACT
    params = flatten(to_dict(COMPACT)) | {"data_hash": "ab12"}
    run = {"name": "r", "key": "k", "params": {name: str(value) for name, value in params.items()}}
    assert read_config(written(tmp_path, json.dumps(run), "run.json")).applied(PAPER) == COMPACT


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("model:\n  width: 3\n", "config of model has unknown fields ['width']"),
        ("model.dim: wide\n", "config field model.dim is 'wide', need an integer"),
        ("optim.lr: fast\n", "config field optim.lr is 'fast', need a finite number"),
        ("optim.lr: nan\n", "config field optim.lr is 'nan', need a finite number"),
        ("optim.lr: 1" + 400 * "0", "config field optim.lr is '1000"),
        ("model.dim: 1e1\n", "config field model.dim is '1e1', need an integer"),
        ("model.dim: 30\n", "model.dim is 30, need a multiple of"),
        ("- 1\n", "holds no mapping"),
        ("a: &x {b: 1}\nc: *x\n", "has aliases"),
        ("a: [\n", "not valid YAML"),
        ("model.dim: 8\nmodel: {dim: 8}\n", "dim is given twice"),
        ("model: 3\n", "config of model is '3', need an object"),
        ("preset: [1]\n", "preset is '[1]'"),
        ("preset: other\n", "no preset is named 'other'"),
        ("x: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_one_line(monkeypatch, capsys, tmp_path, text, line):
    monkeypatch.setattr(sys, "argv", ["command", "--config", written(tmp_path, text)])
    with pytest.raises(SystemExit) as end:
        command_line.run_with_presets(print, PRESETS, dict.fromkeys(PRESETS, "A preset."))
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert line in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--config"], "--config needs a file"),
        (["--config", "a.toml"], "need a file ending in .yaml, .yml, .json"),
        (["--config", "none.yaml"], "no file none.yaml"),
        (["--config", "a.yaml", "--config", "b.yaml"], "--config is given twice"),
    ],
)
def test_a_wrong_flag_is_one_line(monkeypatch, capsys, words, line):
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(SystemExit) as end:
        command_line.run_with_presets(print, PRESETS, dict.fromkeys(PRESETS, "A preset."))
    assert end.value.code == 2
    assert line in capsys.readouterr().err


def test_another_preset_than_the_files_is_refused(monkeypatch, capsys, tmp_path):
    path = written(tmp_path, "preset: paper\n")
    monkeypatch.setattr(sys, "argv", ["command", "demo", "--config", path])
    with pytest.raises(SystemExit):
        command_line.run_with_presets(print, PRESETS, dict.fromkeys(PRESETS, "A preset."))
    assert "is for the preset paper, the command names demo" in capsys.readouterr().err


def test_a_huge_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="need at most"):
        read_config(written(tmp_path, "#" * (MAX_BYTES + 1)))


def test_the_schema_takes_what_the_page_on_training_shows():
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    shown = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    validator = jsonschema.Draft202012Validator(config_schema())
    validator.validate(shown)
    for wrong in ({"train": {"num-step": 3}}, {"train": {"num-steps": "many"}}, {"preset": "x"}):
        assert not validator.is_valid(wrong)


def test_the_schema_names_every_field_and_its_text():
    schema = config_schema()
    model = schema["properties"]["model"]["properties"]
    assert model["dim"]["type"] == "integer"
    assert model["dictionary"]["properties"]["attention"]["enum"] == ["none", "sqrt_d", "cosine"]
    assert "Entries" in model["dictionary"]["properties"]["num_tokens"]["description"]
    assert schema["properties"]["preset"]["enum"][0] == "demo"

    def fields(branch, prefix=""):
        for name, value in branch["properties"].items():
            yield from (
                fields(value, f"{prefix}{name}.") if "properties" in value else [prefix + name]
            )

    assert set(fields(schema)) == {*flatten(to_dict(PAPER)), "preset"}
