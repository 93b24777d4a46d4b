"""A space holds only what the config takes, and says what it does not take."""

from dataclasses import replace

import pytest

from sddusr.config import BASELINE, DEMO, PAPER, SFM, LossConfig
from tune.space import SPACES, Choices, Range, Space, with_values
from tune.space_files import find_space, parsed

FULL = replace(PAPER, losses=LossConfig(stage="full"))


@pytest.mark.parametrize("name", SPACES)
def test_every_space_has_short_names_of_its_own(name):
    space = find_space(name, FULL)
    assert tuple(space.dimensions) == SPACES[name]
    assert len(set(space.short_names().values())) == len(space.dimensions)


def test_tokens_are_the_papers_table_2():
    space = find_space("tokens", PAPER)
    assert [values["model.dictionary.num_tokens"] for values in space.grid()] == [64, 128, 192, 256]
    assert space.short_names() == {"model.dictionary.num_tokens": "N"}


def test_what_has_no_effect_is_not_searched():
    assert set(find_space("losses", PAPER).dimensions) == {"losses.mask_weight"}
    assert set(find_space("all", SFM).dimensions) == {
        "losses.mask_weight",
        "data.mask_quantile",
        "model.matching.temperature",
    }
    with pytest.raises(ValueError, match="--space tokens: nothing of it acts in this config"):
        find_space("tokens", BASELINE)


def test_values_land_in_their_fields_and_nothing_else_changes():
    values = {"model.dictionary.num_tokens": 7, "data.shift_px": (2, 4), "losses.mask_weight": 0.5}
    changed = with_values(DEMO, values)
    assert changed.model.dictionary.num_tokens == 7
    assert changed.data.shift_px == (2, 4)
    back = {"model.dictionary.num_tokens": 32, "data.shift_px": (0, 16), "losses.mask_weight": 2e-2}
    assert with_values(changed, back) == DEMO


def test_a_users_yaml_may_write_fields_as_flags(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "--model.dictionary.num-tokens: [16, 32]\n"
        "losses.mask-weight: {loguniform: [1e-4, 1e-2]}\n"  # YAML reads these two as text
        "data.mask_quantile: {uniform: [0.2, 0.8]}\n"
        "data.shift-px: {choices: [[2, 8], [8, 32]]}\n"
    )
    assert find_space(str(path), DEMO).dimensions == {
        "model.dictionary.num_tokens": Choices((16, 32)),
        "losses.mask_weight": Range(1e-4, 1e-2, log=True),
        "data.mask_quantile": Range(0.2, 0.8),
        "data.shift_px": Choices(((2, 8), (8, 32))),
    }


def test_a_users_python_file_defines_space(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text('SPACE = {"optim.lr": {"loguniform": [10**-k for k in (4, 2)]}}\n')
    assert find_space(str(path), DEMO).dimensions == {"optim.lr": Range(1e-4, 1e-2, log=True)}
    path.write_text("space = {}\n")
    with pytest.raises(ValueError, match=r"mine\.py: defines no SPACE"):
        find_space(str(path), DEMO)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "model.dictionary.num-token: [1]",
            r"num_token is no field of the config; is it model\.dictionary\.num_tokens\?",
        ),
        ("model.dictionary.num-tokens: [0]", r"num_tokens is 0, need 1 or more"),
        ("model.dictionary.num-tokens: [many]", "'many' does not fit, need int"),
        ("model.dictionary.num-tokens: [true]", "True does not fit, need int"),
        ("model.dictionary.num-tokens: [8, 8]", r"\[8, 8\] has a value twice"),
        ("model.dictionary.num-tokens: {uniform: [1, 9]}", "list values under choices"),
        ("model.dictionary.attention: [sqrt]", "'sqrt' does not fit, need one of none, sqrt_d"),
        ("model.dictionary.enabled: [yes, 0]", "0 does not fit, need bool"),
        ("data.shift-px: [8]", "8 does not fit, need tuple"),
        ("data.mask-quantile: {uniform: [0.2, 1]}", r"mask_quantile is 1\.0, need a number betw"),
        ("data.mask-quantile: {uniform: [0.8, 0.2]}", "need low < high"),
        ("optim.lr: {loguniform: [0, 1]}", "need 0 < low < high"),
        ("optim.lr: {loguniform: [1]}", r"need two numbers \[low, high\]"),
        ("optim.lr: {uniform: [1, .inf]}", r"need two numbers \[low, high\]"),
        ("optim.lr: {normal: [1, 2]}", "'normal' is not known"),
        ("optim.lr: 3", "need one of choices, uniform or loguniform"),
        ("optim.lr: {choices: []}", "need a list"),
        ("just text", "need fields of the config"),
        ("a: [", "not valid YAML"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, line, message):
    path = tmp_path / "mine.yaml"
    path.write_text(line)
    with pytest.raises(ValueError, match=rf"mine\.yaml: .*{message}"):
        find_space(str(path), DEMO)


def test_no_such_space_and_no_such_file_are_named():
    with pytest.raises(ValueError, match="--space is 'token', need one of tokens, losses"):
        find_space("token", DEMO)
    with pytest.raises(FileNotFoundError, match=r"--space: no file no/such\.yaml"):
        find_space("no/such.yaml", DEMO)


def test_short_names_are_as_long_as_they_must_be():
    told = {"model.encoder.num_blocks": [1], "model.fusion.num_blocks": [1], "optim.lr": [1.0]}
    space = Space(parsed(told, "here"))
    assert list(space.short_names().values()) == ["encoder.num_blocks", "fusion.num_blocks", "lr"]


def test_a_grid_takes_ends_and_middle_of_a_range():
    assert Range(1e-4, 1e-2, log=True).points(3) == pytest.approx((1e-4, 1e-3, 1e-2))
    assert Range(0.2, 0.8).points(3) == pytest.approx((0.2, 0.5, 0.8))
    space = Space({"a": Choices((1, 2)), "b": Range(0, 1)})
    assert space.size is None
    assert len(list(space.grid())) == 6


def bomb(levels=9):
    names = "abcdefghijklm"[:levels]
    text = "&a [x,x,x,x,x,x,x,x]"
    for name, below in zip(names[1:], names, strict=False):
        text = f"&{name} [{text}" + f",*{below}" * 8 + "]"
    return f"model.dim: {text}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", bomb().encode(), r"has aliases"),
        ("a.yaml", "data.crop-px: [16] # caf\u00e9".encode("latin-1"), "not UTF-8 at byte 24"),
        ("a.yaml", b"[" * 5000, "not valid YAML"),
        ("a.yaml", b"#" * (2**20 + 1), "need at most 1048576"),
        ("a.yaml", b"data.crop-px: [16]\n--data.crop_px: [32]", r"data\.crop_px is there twice"),
        ("a.yaml", b"optim.lr: {uniform: [1, 1" + b"0" * 400 + b"]}", "need two numbers"),
        ("a.yaml", b"\x00", "not valid YAML"),
        ("a.py", b"raise KeyError('x')", "raised KeyError: 'x'"),
        ("a.py", b"import sys; sys.exit(3)", "raised SystemExit: 3"),
        ("a.py", b"SPACE = [", "raised SyntaxError"),
        ("a.py", b"\xff", "raised SyntaxError"),
        ("a.py", b"", "defines no SPACE"),
    ],
)
def test_a_space_that_cannot_be_used_is_one_line_with_its_file(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        find_space(str(path), DEMO)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400
