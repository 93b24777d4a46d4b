"""Checkpoints whose hashes fit and whose content does not: one clear error with the path."""

import hashlib
import json
import random
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from sddusr import checkpoint as ck
from sddusr.checkpoint import CheckpointStore, load_model, read_checkpoint
from sddusr.export.registered_model import load_network
from sddusr.training.learner import Learner
from sddusr.training.loop import _restore
from tests.test_checkpoint import CONFIG, a_model, store_with, write


def rehash(folder: Path) -> None:
    names = [path.name for path in folder.iterdir() if path.name != ck.HASHES]
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / ck.HASHES).write_text(json.dumps(hashes))


def change_config(folder: Path, path: str, value: object) -> None:
    tree = json.loads((folder / ck.CONFIG).read_text())
    *parents, last = path.split(".")
    branch = tree
    for name in parents:
        branch = branch[name]
    branch[last] = value
    (folder / ck.CONFIG).write_text(json.dumps(tree))
    rehash(folder)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("config.model.fusion.num_blocks", 2**31),
        ("config.model.encoder.num_blocks", 2**31),
        ("config.model.encoder.num_ref_blocks", 10**18),
        ("config.model.alignment.spynet_levels", 10**9),
        ("config.model.dim", 2**40),
        ("config.model.dim", 10**40),
        ("config.model.dictionary.num_tokens", 2**62),
        ("config.model.dim", 12),
        ("config.model.dim", "8"),
        ("config.model.dim", True),
        ("config.model.dim", -8),
        ("config.model.dim", 0),
        ("config.model.matching.dim", None),
        ("config.model.matching.vgg_dims", [4]),
        ("config.model.matching.vgg_dims", [4, "8"]),
        ("config.model.matching.temperature", float("nan")),
        ("config.model.dictionary.attention", "other"),
        ("config.model.mask", []),
        ("config.model.alignment.num_groups", 0),
        ("config.model", None),
        ("config", [1]),
        ("config.surprise", 1),
        ("progress", None),
        ("progress.step", "4"),
        ("progress.step", -1),
        ("progress.best_score", "high"),
    ],
)
def test_a_config_that_is_not_the_weights_own_is_one_line_with_the_path(tmp_path, path, value):
    write(tmp_path, a_model())
    change_config(tmp_path, path, value)
    started = time.monotonic()
    for read in (load_model, load_network):
        with pytest.raises(ValueError, match=str(tmp_path)) as refused:
            read(str(tmp_path))
        assert "\n" not in str(refused.value)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b"{}"])
def test_a_config_that_is_no_json_object_is_refused(tmp_path, content):
    write(tmp_path, a_model())
    (tmp_path / ck.CONFIG).write_bytes(content)
    rehash(tmp_path)
    with pytest.raises(ValueError, match=str(tmp_path)):
        read_checkpoint(str(tmp_path))


@pytest.mark.parametrize("kind", ["shape", "missing", "more", "nan", "dtype"])
def test_other_weights_are_refused(tmp_path, kind):
    write(tmp_path, a_model())
    state = load_file(tmp_path / ck.MODEL)
    name = max(state, key=lambda name: state[name].numel())
    if kind == "missing":
        del state[name]
    elif kind == "more":
        state["more"] = torch.zeros(3)
    else:
        state[name] = {
            "shape": torch.zeros(3, 3),
            "nan": state[name] * float("nan"),
            "dtype": state[name].int(),
        }[kind]
    (tmp_path / ck.MODEL).write_bytes(save(state))
    rehash(tmp_path)
    with pytest.raises(ValueError, match=rf"{tmp_path}: .*({name}|more)"):
        load_model(str(tmp_path))


def test_the_newest_checkpoint_is_passed_over_where_its_content_does_not_fit(tmp_path, caplog):
    store_with(tmp_path, [1, 2, 3], keep=3)
    change_config(tmp_path / "step-00000003", "config.model.fusion.num_blocks", 2**31)
    (tmp_path / "step-00000002" / ck.MODEL).write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    rehash(tmp_path / "step-00000002")
    found = CheckpointStore(str(tmp_path), 3).newest_good()
    assert found is not None
    assert found.progress["step"] == 1
    assert "step-00000003" in caplog.text
    assert "step-00000002" in caplog.text


def test_files_changed_with_their_hashes_are_read_or_refused(tmp_path):
    write(tmp_path, a_model())
    contents = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    rng = random.Random(0)
    for _ in range(150):
        name = rng.choice([ck.MODEL, ck.CONFIG, ck.TRAIN_STATE])
        data = bytearray(contents[name])
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data) if rng.random() < 0.3 else min(len(data), 3000))
            data[at] = rng.randrange(256)
        (tmp_path / name).write_bytes(
            data[: rng.randrange(len(data))] if rng.random() < 0.2 else data
        )
        rehash(tmp_path)
        try:
            load_model(str(tmp_path))
        except ValueError as error:
            assert str(tmp_path) in str(error)  # noqa: PT017
        (tmp_path / name).write_bytes(contents[name])


@pytest.mark.parametrize("state", [{}, {"optimizer": 3}, {"optimizer": {"state": {}}}, "shape"])
def test_optimizer_states_of_another_network_are_one_line(tmp_path, state):
    if state == "shape":
        state = Learner(CONFIG, torch.device("cpu")).train_state()
        state["optimizer"]["state"] = {0: {"exp_avg": torch.zeros(5)}}
    write(tmp_path, a_model())
    checkpoint = read_checkpoint(str(tmp_path))
    changed = ck.Checkpoint(**{**vars(checkpoint), "train_state": state})
    with pytest.raises(ValueError, match=rf"{tmp_path}: its optimizer states do not fit"):
        _restore(Learner(CONFIG, torch.device("cpu")), changed)
