"""An ablation's networks differ from each other by one thing each."""

from dataclasses import replace

import pytest
from _variants import BASELINE, SFM, variants

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
    found = {each.name: each for each in variants(DEMO, "parts", (16, 64))}
    assert list(found) == [BASELINE, SFM, "sddusr-16", "sddusr-64"]
    assert changed(found[BASELINE].config, found[SFM].config) == {"model.mask.enabled"}
    assert changed(found[SFM].config, replace(DEMO)) == {"model.dictionary.enabled"}
    assert changed(found["sddusr-16"].config, DEMO) == {"model.dictionary.num_tokens"}
    assert found["sddusr-64"].over == (BASELINE, SFM)


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
