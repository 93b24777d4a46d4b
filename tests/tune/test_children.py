"""In MLflow a search is one run with a child for each trial, whatever becomes of processes."""

from collections import Counter
from dataclasses import replace

import pytest

from pipelines import tracking
from sddusr.training.loop import SCORE
from tests.tune.conftest import OF_SIX, SMALL, SPACE
from tune import children
from tune.ledger import Point, Progress

PROGRESS = Progress(
    curve=(Point(2, 27.0, 1.0), Point(4, 28.0, 2.0)), peak_bytes=2 * 10**9, num_parameters=7
)


@pytest.fixture
def home(setting):
    return setting.home


def of_trial(server, number):
    (run,) = [run for run in server.runs.values() if run.tags["sddusr.trial"] == str(number)]
    return run


def start(home, ledger, number):
    """As a trial's process, which is killed after its first validation."""
    ledger.propose(number, SMALL)
    run = children.open_child(home, ledger.trial(number), SPACE, OF_SIX)
    run.log_metrics({SCORE: 27.0}, 2)
    run.leave(home.wait_s)


def test_runs_of_killed_trials_are_ended_and_go_on_with_them(home, ledger, server):
    start(home, ledger, 0)
    with children.Closer(ledger, home, SPACE):
        pass  # nobody ends the trial
    assert of_trial(server, 0).info.status == "KILLED"
    assert not ledger.trial(0).is_closed
    start(home, ledger, 0)
    assert of_trial(server, 0).info.status == "RUNNING"
    ledger.note(0, PROGRESS)
    ledger.end(0, "finished")
    for _ in range(2):
        with children.Closer(ledger, home, SPACE):
            pass
    run = of_trial(server, 0)
    assert run.info.status == "FINISHED"
    assert (run.tags["sddusr.status"], run.tags["mlflow.parentRunId"]) == ("finished", "parent")
    told = {point.key: point.value for point in run.metrics}
    assert told["search/best_psnr"] == 28.0
    assert (told["search/seconds"], told["search/peak_mb"]) == (2.0, 2000.0)
    assert set(Counter((point.key, point.step) for point in run.metrics).values()) == {1}


def test_a_trial_that_died_before_it_logged_is_shown_as_failed(home, ledger, server):
    ledger.propose(0, SMALL)
    ledger.end(0, "failed", "out of memory")
    with children.Closer(ledger, home, SPACE):
        pass
    run = of_trial(server, 0)
    assert (run.info.status, run.tags["sddusr.reason"]) == ("FAILED", "out of memory")


def test_exactly_one_trial_is_tagged_as_the_best_also_when_that_changes(home, ledger, server):
    for number in range(3):
        start(home, ledger, number)
    for best in (0, 2):
        trials = ledger.trials()
        children.mark_best(home, trials, trials[best])
        tagged = [of_trial(server, k).tags[children.BEST_TAG] for k in range(3)]
        assert tagged == ["true" if k == best else "false" for k in range(3)]


def test_trials_find_their_search_once_mlflow_is_back(home, ledger, server):
    server.away = True
    start(replace(home, parent_id="", wait_s=0), ledger, 0)
    server.away = False
    children.mark_best(replace(home, parent_id="late"), ledger.trials(), None)
    assert of_trial(server, 0).tags["mlflow.parentRunId"] == "late"
    assert tracking.noted_run(ledger.trial_folder(0))
