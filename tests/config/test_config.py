import json
from dataclasses import replace

import pytest

from sddusr.config import (
    PAPER,
    PRESETS,
    Config,
    DataConfig,
    OptimConfig,
    TrainConfig,
    flatten,
    from_dict,
    to_dict,
)


@pytest.mark.parametrize("name", PRESETS)
def test_config_survives_json(name):
    config = PRESETS[name][1]
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config


def test_unknown_field_is_named():
    tree = to_dict(PAPER)
    tree["model"]["dictionary"]["num_token"] = 64
    with pytest.raises(ValueError, match=r"model\.dictionary has unknown fields \['num_token'\]"):
        from_dict(Config, tree)


def test_flatten_names_every_leaf_once():
    flat = flatten(to_dict(PAPER))
    assert flat["model.dictionary.num_tokens"] == 128
    assert not any(isinstance(value, dict) for value in flat.values())


def test_baseline_and_sfm_are_paper_with_parts_switched_off():
    flat = {name: flatten(to_dict(PRESETS[name][1])) for name in ("paper", "baseline", "sfm")}
    differs = {
        name: {key for key in flat["paper"] if flat["paper"][key] != flat[name][key]}
        for name in ("baseline", "sfm")
    }
    assert differs["baseline"] == {"model.mask.enabled", "model.dictionary.enabled"}
    assert differs["sfm"] == {"model.dictionary.enabled"}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("crop_px", 127, "data.crop_px is 127, need an even number"),
        ("shift_px", (96, 32), "data.shift_px"),
        ("mask_quantile", 1.0, "data.mask_quantile"),
    ],
)
def test_what_cannot_work_is_refused_at_once(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(DataConfig(), **{field: value})


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (TrainConfig, {"accumulate": 5}, r"train\.accumulate is 5, need at most train\.batch_size"),
        (TrainConfig, {"accumulate": -1}, r"train\.accumulate is -1, need 0 or more"),
        (TrainConfig, {"ema_decay": 1.0}, r"train\.ema_decay is 1\.0, need 0 or more and less"),
        (TrainConfig, {"profile_steps": -1}, r"train\.profile_steps is -1, need 0 or more"),
        (OptimConfig, {"max_grad_norm": -1.0}, r"optim\.max_grad_norm is -1\.0, need 0 or more"),
    ],
)
def test_a_run_that_cannot_work_is_refused_at_once(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        kind(**changes)


def test_every_option_is_off_unless_asked_for():
    for name, (_, config) in PRESETS.items():
        train = config.train
        assert (train.accumulate, train.profile_steps) == (0, 0)
        assert (train.ema_decay > 0) == (name == "compact")
        assert not train.compile
        assert config.optim.max_grad_norm == 0
