"""What is refused before workers start."""

import copy
from dataclasses import replace

import pytest

from pipelines.options.preprocess import PreprocessOptions
from pipelines.ray_runtime.preflight import check_data, samples_shards
from sddusr.config import PRESETS
from tests.runs import CONFIG


def test_shards_with_refs_registered_otherwise_are_refused(tiny_shards):
    check_data(tiny_shards, CONFIG)
    other = replace(CONFIG, data=replace(CONFIG.data, register_ref="auto"))
    with pytest.raises(
        ValueError,
        match=r"registered by 'none', the config wants 'auto'.*"
        r"--data.register-ref none",
    ):
        check_data(tiny_shards, other)


def test_pairs_are_not_sent_back_to_preprocess(tiny_shards):
    """They are registered in any case: the config alone can give way."""
    parameters = {"layout": "pairs", "register_ref": "auto"}
    manifest = replace(tiny_shards.manifest, parameters=parameters)
    shards = copy.copy(tiny_shards)
    shards.manifest = manifest
    with pytest.raises(ValueError, match=r"wants 'none'; say --data.register-ref auto"):
        check_data(shards, CONFIG)
    with pytest.raises(ValueError, match="need auto for pairs"):
        PreprocessOptions(layout="pairs", root="x", out="y", register_ref="homography")


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_without_data_gets_samples_registered_as_it_wants_them(
    preset, tmp_path, monkeypatch
):
    made = []
    monkeypatch.setattr("pipelines.preprocess.preprocess", made.append)
    config = PRESETS[preset][1]
    place = samples_shards(str(tmp_path), config)
    (options,) = made
    assert options.out == place
    assert options.parameters["register_ref"] == config.data.register_ref
    other = "none" if config.data.register_ref != "none" else "auto"
    others = samples_shards(
        str(tmp_path), replace(config, data=replace(config.data, register_ref=other))
    )
    assert others != place
