"""A search that was cut off at an awkward moment is neither done too early nor never.

What Ray would do is done here at once, so that each start can be cut off anywhere.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import ray

from tests.tune import driver
from tests.tune.conftest import URI
from tune import search as searching
from tune.scheduler import Proposals
from tune.search import run_search
from tune.trial_resources import Share
from tune.trials import SearchFolder


class KilledError(BaseException):
    """Ends a start as SIGKILL does: nothing handles it."""


class HereAndNow:
    """Matches `StoppableWork`, in this process and without a flag."""

    flag, signal_number = None, 0

    def __class_getitem__(cls, _):
        return cls

    def run(self, work):
        return work()


class Starts:
    """The command of a search of three trials, of which the second fails."""

    def __init__(self, options) -> None:
        self.options = options
        self.is_killed_before = -1
        """The trial whose start ends the search."""

    def run_trials(self, search, proposer, setting, share, *, num_trials, halving) -> None:
        searcher = Proposals(search, proposer, num_trials, setting)
        while isinstance(proposed := searcher.suggest("any"), dict):
            number = proposed["number"]
            if number == self.is_killed_before:
                raise KilledError
            search.end(number, "failed" if number == 1 else "finished")

    def start(self, **changes):
        return run_search(replace(self.options, **changes))

    def start_and_kill(self, before: int = -1, **changes) -> None:
        self.is_killed_before = before
        with pytest.raises(KilledError):
            self.start(**changes)
        self.is_killed_before = -1


@pytest.fixture
def search(tiny_shards, tmp_path, monkeypatch, server) -> Starts:
    options = driver.options(tiny_shards.root, str(tmp_path))
    search = Starts(replace(options, tracking_uri=URI, register_model=""))
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(searching.cluster, "init_ray", lambda: None)
    monkeypatch.setattr(searching, "share_of_cluster", lambda *_: (Share(1, 1, 0), None))
    monkeypatch.setattr(searching, "StoppableWork", HereAndNow)
    monkeypatch.setattr(searching, "run_trials", search.run_trials)
    return search


def statuses(result) -> list[tuple[int, str]]:
    return [(trial.number, trial.status) for trial in result.trials]


ALL = [(0, "finished"), (1, "failed"), (2, "finished")]


def test_a_search_whose_failed_trials_were_opened_again_is_not_done(search):
    assert statuses(search.start()) == ALL
    assert statuses(search.start()) == ALL
    search.start_and_kill(before=1, resume=True, retry_failed=True)
    with pytest.raises(ValueError, match=r"is not finished: 2 of 3 trials are over; --resume"):
        search.start()
    assert statuses(search.start(resume=True)) == ALL
    assert search.start().is_complete


def test_a_number_whose_proposal_was_cut_off_is_used_again(search, monkeypatch):
    propose = SearchFolder.propose

    def be_killed(folder, number, values):
        if number == 1:
            raise KilledError
        propose(folder, number, values)

    monkeypatch.setattr(SearchFolder, "propose", be_killed)
    search.start_and_kill()
    monkeypatch.setattr(SearchFolder, "propose", propose)
    assert statuses(search.start(resume=True)) == ALL
    assert search.start().is_complete


def test_a_search_with_a_damaged_proposal_comes_to_an_end(search, tmp_path):
    search.start_and_kill(before=2)
    place = Path(tmp_path, "search", "trials", "0001", "proposal.json")
    place.write_text(place.read_text().replace("1", "2"))
    result = search.start(resume=True)
    assert (statuses(result), result.is_complete) == ([ALL[0], ALL[2]], True)
    assert statuses(search.start()) == [ALL[0], ALL[2]]


def test_a_kill_while_the_nodes_are_asked_does_not_spoil_the_searchs_folder(search, monkeypatch):
    """What a node sees is found out by a file in the storage, as with a training run."""
    check = searching.check_shared

    def be_killed(storage, data, uri):
        Path(storage).mkdir(parents=True, exist_ok=True)
        Path(storage, ".seen-0123").touch()
        raise KilledError

    monkeypatch.setattr(searching, "check_shared", be_killed)
    search.start_and_kill()
    monkeypatch.setattr(searching, "check_shared", check)
    assert statuses(search.start()) == ALL
