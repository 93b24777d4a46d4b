"""Tune asks for trials and tells of scores; what it is answered survives any restart."""

import time
from dataclasses import replace
from types import SimpleNamespace

from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from sddusr.training.loop import SCORE
from tune.proposals import Proposer
from tune.scheduler import Halving, Proposals, Rungs, Verdicts
from tune.space import Choices, Space
from tune.trials import SearchFolder

SPACE = Space({"model.dictionary.num_tokens": Choices(tuple(range(1, 9)))})
HALVING = Halving(first_step=10, last_step=99, factor=2)
RUNGS = (10, 20, 40, 80)
NUM = 6


def proposals(setting, num=3, deadline=float("inf")):
    setting = replace(setting, space=SPACE, deadline=deadline)
    return Proposals(SearchFolder(setting.folder), Proposer(SPACE, "grid", 0), num, setting)


def test_new_trials_are_on_disk_before_they_start(setting, search):
    searcher = proposals(setting)
    for number in range(3):
        assert searcher.suggest("any") == {"number": number}
        assert search.trial(number).values == {"model.dictionary.num_tokens": number + 1}
    assert searcher.suggest("any") == Searcher.FINISHED
    assert search.run(2).config().name == "trial 2 N=3"


def test_unfinished_trials_come_first_and_count(setting, search):
    before = proposals(setting, 2)
    before.suggest("any"), before.suggest("any")
    search.end(0, "finished")
    after = proposals(setting, 3)
    assert [after.suggest("any") for _ in range(3)] == [
        {"number": 1},
        {"number": 2},
        Searcher.FINISHED,
    ]


def test_after_the_deadline_none_begins(setting, search):
    assert proposals(setting, deadline=time.time() - 1).suggest("any") == Searcher.FINISHED
    assert search.trials() == []


def add(rungs, number, start):
    """The trial as Tune knows it, by another id in each start of the search."""
    trial = SimpleNamespace(trial_id=f"{start}-{number}", config={"number": number})
    rungs.on_trial_add(None, trial)
    return trial


def events():
    """(number, step, score) as trials that run side by side report."""
    return [(k, step, 25 + (7 * k + step) % 11 + step / 50) for step in RUNGS for k in range(NUM)]


def verdicts(search, restart_before=None):
    """Outcomes of all trials, the search being started again before one of the events."""
    for number in range(NUM):
        search.propose(number, {"model.dictionary.num_tokens": number + 1})
    rungs = Rungs(search, HALVING)
    trials = {k: add(rungs, k, 0) for k in range(NUM)}
    for index, (number, step, score) in enumerate(events()):
        if index == restart_before:
            rungs = Rungs(search, HALVING)
            trials = {k: add(rungs, k, 1) for k in range(NUM) if not search.is_over(k)}
        if search.is_over(number):
            continue
        search.run(number).log_metrics(step, {SCORE: score})
        row = {"step": step, SCORE: score}
        assert rungs.on_trial_result(None, trials[number], row) == TrialScheduler.CONTINUE
    return [(trial.status, trial.reason) for trial in search.trials()]


def test_verdicts_do_not_depend_on_restarts(tmp_path):
    unbroken = verdicts(SearchFolder(str(tmp_path / "unbroken")))
    assert {status for status, _ in unbroken} == {"open", "stopped"}
    assert any(reason == "behind the others at step 20" for _, reason in unbroken)
    for index in range(0, len(events()), 4):
        assert verdicts(SearchFolder(str(tmp_path / str(index))), index) == unbroken


def test_a_trial_whose_process_died_failed_with_what_tune_knows(search, caplog):
    caplog.set_level("INFO")
    for number in range(2):
        search.propose(number, {"model.dictionary.num_tokens": 1})
    died = SimpleNamespace(
        config={"number": 1},
        get_pickled_error=lambda: None,
        get_error=lambda: "The actor died\nunexpectedly",
    )
    Verdicts(search, 2).on_trial_error(0, [], died)
    trial = search.trial(1)
    assert (trial.status, trial.reason) == ("failed", "The actor died unexpectedly")
    assert "Trial 1 failed, The actor died unexpectedly (1 of 2 trials done)" in caplog.text
