import json
import random
from pathlib import Path

import pytest
import torch

from sddusr import checkpoint as ck
from sddusr.checkpoint import CheckpointStore, load_model, read_checkpoint, write_checkpoint
from sddusr.checkpoint_checks import Progress
from sddusr.config import Config
from sddusr.model.sddusr import SDDuSR
from tests.tiny import TINY, pictures, without_zero_starts

CONFIG = Config(model=TINY)


def a_model(seed=0):
    torch.manual_seed(seed)
    return without_zero_starts(SDDuSR(TINY))


def write(folder, model, step=1, best_step=1, **progress):
    write_checkpoint(
        str(folder),
        config=CONFIG,
        progress={"step": step, "best_step": best_step, "best_score": 1.5, **progress},
        model_state=model.state_dict(),
        train_state={"optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": []}},
    )


def store_with(folder, steps, keep=2, best_step=1):
    store, model = CheckpointStore(str(folder), keep), a_model()
    for step in steps:
        store.write(
            config=CONFIG,
            progress={"step": step, "best_step": min(step, best_step), "best_score": 0.5},
            model_state=model.state_dict(),
            train_state={},
        )
    return store


def test_round_trip_is_bit_equal(tmp_path):
    model = a_model()
    write(tmp_path, model)
    again = read_checkpoint(str(tmp_path))
    assert again.config == CONFIG
    assert again.progress == {"step": 1, "best_step": 1, "best_score": 1.5}
    torch.testing.assert_close(again.model_state, dict(model.state_dict()), rtol=0, atol=0)
    assert again.train_state["optimizer"]["state"][0]["step"] == 3


def test_loaded_model_computes_the_same_picture(tmp_path):
    model = a_model().eval().requires_grad_(False)
    write(tmp_path, model)
    loaded = load_model(str(tmp_path))
    assert not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded(*pictures()).sr, model(*pictures()).sr)


def test_progress_without_a_best_is_strict_json(tmp_path):
    early = Progress(data_hash="0")
    write_checkpoint(
        str(tmp_path),
        config=CONFIG,
        progress=early.to_json(),
        model_state=a_model().state_dict(),
        train_state={},
    )
    refused: list[str] = []
    json.loads((tmp_path / "config.json").read_bytes(), parse_constant=refused.append)
    assert refused == []
    assert Progress(**read_checkpoint(str(tmp_path)).progress) == early


def test_every_flipped_bit_is_found(tmp_path):
    write(tmp_path, a_model())
    rng = random.Random(0)
    for _ in range(200):
        path = tmp_path / rng.choice([ck.MODEL, ck.TRAIN_STATE, ck.CONFIG, ck.HASHES])
        content = path.read_bytes()
        position = rng.randrange(len(content))
        flipped = content[position] ^ (1 << rng.randrange(8))
        path.write_bytes(content[:position] + bytes([flipped]) + content[position + 1 :])
        with pytest.raises(ValueError, match=str(tmp_path)):
            read_checkpoint(str(tmp_path))
        path.write_bytes(content)
    read_checkpoint(str(tmp_path))


def test_newest_good_checkpoint_is_used_and_the_damaged_one_named(tmp_path, caplog):
    store = store_with(tmp_path, [1, 2, 3], keep=3)
    (tmp_path / "step-00000003" / ck.MODEL).write_bytes(b"half")
    (tmp_path / "step-00000002" / ck.HASHES).unlink()  # its writer was killed
    found = store.newest_good()
    assert found is not None
    assert found.progress["step"] == 1
    assert "step-00000003" in caplog.text
    assert "step-00000002" in caplog.text


def test_the_last_few_and_the_best_are_kept(tmp_path):
    store_with(tmp_path, [1, 2, 3, 4, 5], keep=2, best_step=2)
    kept = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert kept == ["step-00000002", "step-00000004", "step-00000005"]


def test_a_runs_folder_stands_for_its_best_checkpoint(tmp_path):
    store_with(tmp_path / "checkpoints", [1, 2, 3], best_step=2)
    for place in (tmp_path, tmp_path / "checkpoints"):
        assert Path(ck.resolve(str(place))).name == "step-00000002"
    with pytest.raises(FileNotFoundError, match="no checkpoint there"):
        load_model(str(tmp_path / "elsewhere"))


def test_a_best_that_leads_out_of_the_folder_is_refused(tmp_path):
    store_with(tmp_path, [1])
    (tmp_path / ck.BEST).write_text(json.dumps({"folder": "../outside"}))
    with pytest.raises(ValueError, match="refused"):
        ck.resolve(str(tmp_path))


def test_a_train_state_that_runs_code_is_refused(tmp_path):
    class Canary:
        def __reduce__(self):
            return (open, (str(tmp_path / "canary"), "w"))

    write_checkpoint(
        str(tmp_path), config=CONFIG, progress={}, model_state={}, train_state={"x": Canary()}
    )
    with pytest.raises(ValueError, match="more than tensors and numbers"):
        read_checkpoint(str(tmp_path))
    assert not (tmp_path / "canary").exists()
