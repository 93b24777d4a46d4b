"""Trials get what the cluster has, and what it never has is said before they wait for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune.trial_resources import Node, Share, plan

LAPTOP = [Node(2, 0)]
GPUS = [Node(16, 2), Node(16, 2)]

nodes = st.lists(st.builds(Node, st.integers(1, 64), st.integers(0, 8)), min_size=1, max_size=4)


def planned(nodes, workers=1, concurrent=None, cpus=None, gpus=None):
    return plan(nodes, workers=workers, concurrent=concurrent, cpus=cpus, gpus=gpus)


@pytest.mark.parametrize(
    ("nodes", "wanted", "share"),
    [
        (LAPTOP, {}, Share(2, 1, 0)),
        (LAPTOP, {"concurrent": 1}, Share(1, 2, 0)),
        (LAPTOP, {"workers": 2}, Share(1, 1, 0)),
        (LAPTOP, {"cpus": 0.5, "concurrent": 4}, Share(4, 0.5, 0)),
        ([Node(64, 0)], {}, Share(4, 16, 0)),
        (GPUS, {}, Share(4, 8, 1)),
        (GPUS, {"gpus": 0.5}, Share(8, 4, 0.5)),
        (GPUS, {"gpus": 2}, Share(2, 16, 2)),
        (GPUS, {"workers": 4}, Share(1, 8, 1)),
        (GPUS, {"gpus": 0}, Share(4, 8, 0)),
        ([Node(9, 1)], {"gpus": 1 / 3}, Share(3, 3, 1 / 3)),
        ([Node(2, 4)], {}, Share(2, 1, 1)),
    ],
)
def test_shares_of_known_machines(nodes, wanted, share):
    assert planned(nodes, **wanted) == share


@given(nodes=nodes, gpus=st.sampled_from([None, 0, 0.25, 1]), workers=st.integers(1, 3))
def test_what_is_planned_fits(nodes, gpus, workers):
    try:
        share = planned(nodes, workers, gpus=gpus)
    except ValueError as error:
        assert "do not fit the cluster" in str(error)  # noqa: PT017
        return
    num = share.concurrent * workers
    for node in sorted(nodes, reverse=True):
        of_cpus = int(node.cpus / share.cpus + 1e-6)
        of_gpus = int(node.gpus / share.gpus + 1e-6) if share.gpus else num
        num -= min(of_cpus, of_gpus)
    assert num <= 0


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"concurrent": 3}, r"3 trial\(s\) at a time .* do not fit .* 2 cores and 0 GPUs"),
        ({"cpus": 3}, "do not fit"),
        ({"gpus": 0.5}, "lower --concurrent, --workers-per-trial"),
        ({"workers": 3}, "do not fit"),
        ({"workers": 0}, "--workers-per-trial is 0"),
        ({"concurrent": 0}, "--concurrent 0, need 1 or more"),
        ({"cpus": 0}, "need more than 0 cores"),
        ({"gpus": -1}, "no less than 0 GPUs"),
    ],
)
def test_what_can_never_fit_is_refused(wanted, message):
    with pytest.raises(ValueError, match=message):
        planned(LAPTOP, **wanted)
