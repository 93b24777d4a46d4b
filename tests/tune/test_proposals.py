"""What is tried next follows from the seed and the trials before, and never twice the same."""

import math

import pytest

from tune.proposals import NUM_RANDOM, Proposer
from tune.space import Choices, Range, Space
from tune.trials import Point, Trial

FINITE = Space({"n": Choices((64, 128, 192, 256)), "kind": Choices(("none", "cosine"))})
ENDLESS = Space({"weight": Range(1e-4, 1e-1, log=True), "kind": Choices(("none", "cosine"))})


def trial(number, values, score=None, status="finished", step=10):
    curve = () if score is None else (Point(step, score, 1.0),)
    return Trial(number=number, folder="", values=values, status=status, curve=curve)


def search(proposer, num, score):
    trials = []
    for number in range(num):
        values = proposer.propose(number, trials)
        trials.append(trial(number, values, score(values)))
    return trials


def peak(values):
    """Best at a weight of 1e-2 and the kind cosine."""
    return 30 - (math.log10(values["weight"]) + 2) ** 2 + (values["kind"] == "cosine")


@pytest.mark.parametrize("algorithm", ["optuna", "random"])
def test_proposals_follow_from_seed_and_trials_alone(algorithm):
    proposer = Proposer(ENDLESS, algorithm, 3)
    trials = search(proposer, 12, peak)
    for number in range(12):  # as a search that is resumed at any trial asks
        assert Proposer(ENDLESS, algorithm, 3).propose(number, trials[:number]) == (
            trials[number].values
        )
    other = search(Proposer(ENDLESS, algorithm, 4), 12, peak)
    assert all(ours.values != theirs.values for ours, theirs in zip(trials, other, strict=True))


@pytest.mark.parametrize("algorithm", ["optuna", "random", "grid"])
def test_a_finite_space_is_tried_whole_and_nothing_twice(algorithm):
    proposer = Proposer(FINITE, algorithm, 0)
    assert proposer.num_configs() == 8
    trials = search(proposer, 8, lambda values: values["n"])
    tried = sorted(tuple(trial.values.values()) for trial in trials)
    assert tried == sorted(tuple(values.values()) for values in FINITE.grid())


def test_optuna_learns_from_the_trials_before():
    scores = [trial.score for trial in search(Proposer(ENDLESS, "optuna", 0), 25, peak)]
    learned, drawn = scores[NUM_RANDOM + 5 :], scores[:NUM_RANDOM]
    assert sum(learned) / len(learned) > sum(drawn) / len(drawn) + 0.5
    by_chance = [trial.score for trial in search(Proposer(ENDLESS, "random", 0), 25, peak)]
    assert sum(learned) / len(learned) > sum(by_chance) / len(by_chance) + 0.5


def test_failures_are_learned_from_too():
    def propose_all(status):
        proposer, trials = Proposer(ENDLESS, "optuna", 0), []
        for number in range(30):
            values = proposer.propose(number, trials)
            fails = values["kind"] == "cosine"
            trials.append(
                trial(number, values, None if fails else 1.0, status if fails else "finished")
            )
        return sum(trial.values["kind"] == "cosine" for trial in trials[10:])

    assert propose_all("failed") <= 5


def test_unfinished_and_stopped_trials_may_be_among_those_before():
    trials = search(Proposer(ENDLESS, "optuna", 0), 8, peak)
    trials[6] = trial(6, trials[6].values, status="open")
    trials[7] = trial(7, trials[7].values, 29.0, status="stopped")
    values = Proposer(ENDLESS, "optuna", 0).propose(8, trials)
    assert 1e-4 <= values["weight"] <= 1e-1


def test_a_grid_takes_its_order():
    proposer = Proposer(Space({"weight": Range(0, 1), "n": Choices((1, 2))}), "grid", 0)
    assert proposer.num_configs() == 6
    assert [tuple(proposer.propose(k, []).values()) for k in range(6)] == [
        (0, 1), (0, 2), (0.5, 1), (0.5, 2), (1, 1), (1, 2),
    ]  # fmt: skip
