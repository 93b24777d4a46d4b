"""An ablation's networks differ from each other by one thing each."""

from dataclasses import replace
from itertools import pairwise

import pytest
from ablation_parts.variants import BASELINE, REPLACED, SFM, variants

from sddusr.config import DEMO, PAPER, flatten, to_dict

KNOBS = {
    "temperature-0.05": {"model.matching.temperature"},
    "temperature-0.01": {"model.matching.temperature"},
    "attention-sqrt_d": {"model.dictionary.attention"},
    "attention-cosine": {"model.dictionary.attention"},
    "mask-image": {"data.mask_scope"},
    "windows-near": {"data.shift_px"},
    "windows-paper": {"data.shift_px"},
    "windows-far": {"data.shift_px"},
    "keys-all": {"model.mask.mask_keys"},
}


def changed(one, other) -> set[str]:
    before, after = (flatten(to_dict(config)) for config in (one, other))
    return {name.split(".0")[0] for name in before if before[name] != after[name]}


def test_parts_are_added_one_by_one():
    parts = variants(DEMO, "parts", (16, 64), has_as_given=True)
    assert [each.name for each in parts] == [
        "baseline",
        "registered",
        "detail",
        "trust",
        "sfm",
        "replaced",
        "constant",
        "sddusr-16",
        "sddusr-64",
    ]
    steps = [changed(one.config, two.config) for one, two in pairwise(parts[:6])]
    assert steps == [
        {"data.register_ref"},
        {"model.detail.enabled", "model.detail.trust"},
        {"model.detail.trust"},
        {"model.mask.enabled"},
        {"model.detail.replaced_residual"},
    ]
    found = {each.name: each for each in parts}
    assert [each.name for each in parts if each.as_given] == [BASELINE]
    assert changed(found[REPLACED].config, DEMO) == {"model.dictionary.enabled"}
    assert changed(found["sddusr-16"].config, DEMO) == {"model.dictionary.num_tokens"}
    assert changed(found["constant"].config, DEMO) == {
        "model.dictionary.constant",
        "model.dictionary.norm",
        "model.dictionary.num_heads",
    }
    assert found["sddusr-64"].over == (BASELINE, REPLACED, "constant")
    assert found[SFM].over == ("trust",)


def test_without_a_detail_skip_the_parts_are_the_papers():
    names = [each.name for each in variants(PAPER, "parts", (128,))]
    assert names == ["baseline", "sfm", "constant", "sddusr-128"]
    assert not any(each.as_given for each in variants(PAPER, "parts", (128,)))


def test_each_knob_is_turned_alone():
    base, *others = variants(DEMO, "knobs", ())
    assert base.config == DEMO
    assert {each.name: changed(base.config, each.config) for each in others} == KNOBS


def test_what_is_the_base_already_is_no_variant():
    names = [each.name for each in variants(PAPER, "knobs", ())]
    assert "windows-paper" not in names
    assert {"sddusr-128", "windows-near", "windows-far"} <= set(names)


@pytest.mark.parametrize("study", ["parts", "knobs"])
def test_a_variant_comes_after_those_it_is_compared_with(study):
    seen = set()
    for each in variants(DEMO, study, (16,)):
        assert {*each.over, *filter(None, [each.weights_of])} <= seen
        seen.add(each.name)


def test_dictionaries_differ_by_one_thing_from_the_preset_or_from_the_paper():
    found = {each.name: each for each in variants(DEMO, "dictionary", ())}
    assert list(found)[:3] == ["constant", "sddusr-32", "as-printed"]
    assert found["constant"].over == ()
    assert all(each.over == ("constant",) for name, each in found.items() if name != "constant")
    steps = {name: changed(each.config, DEMO) for name, each in found.items()}
    assert steps["sddusr-32"] == set()
    one_thing = {
        "heads-1": "num_heads",
        "heads-4": "num_heads",
        "large-tokens": "token_scale",
        "keep-half": "keep_logit",
        "keep-less": "keep_logit",
        "written": "tokens",
    }
    for name, field in one_thing.items():
        assert steps[name] == {f"model.dictionary.{field}"}
    printed, paper = found["as-printed"].config.model.dictionary, PAPER.model.dictionary
    assert replace(printed, num_tokens=paper.num_tokens) == paper
    assert changed(found["cosine"].config, found["as-printed"].config) == {
        "model.dictionary.attention"
    }


def test_a_study_trains_no_config_twice():
    base = replace(DEMO, model=replace(DEMO.model, dictionary=replace(
        DEMO.model.dictionary, num_heads=4)))  # fmt: skip
    names = [each.name for each in variants(base, "dictionary", ())]
    assert "heads-4" not in names
    assert "heads-1" in names
