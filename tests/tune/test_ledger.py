"""A search on disk: each fact has one writer, and what was said first stays."""

from pathlib import Path

import pytest

from tune.ledger import Ledger, Point, Progress

VALUES = {"model.dictionary.num_tokens": 64, "data.shift_px": (2, 8), "losses.mask_weight": 1e-3}


@pytest.fixture
def ledger(tmp_path):
    return Ledger(str(tmp_path))


def test_a_trial_reads_back_as_it_was_written(ledger):
    progress = Progress(
        curve=(Point(10, 28.5, 3.5), Point(20, 28.25, 7.0)), peak_bytes=10**9, num_parameters=5
    )
    ledger.propose(0, VALUES)
    assert ledger.trial(0).status == "open"
    assert (ledger.trial(0).best, ledger.trial(0).score) == (None, None)
    ledger.note(0, progress)
    ledger.end(0, "stopped", "behind")
    ledger.close(0)
    (trial,) = ledger.trials()
    assert (trial.values, trial.progress) == (VALUES, progress)
    assert (trial.status, trial.reason, trial.is_closed) == ("stopped", "behind", True)
    assert trial.best == Point(10, 28.5, 3.5)


def test_the_first_outcome_stays_until_the_trial_is_reopened(ledger):
    ledger.propose(0, VALUES)
    ledger.end(0, "failed", "no memory")
    ledger.close(0)
    ledger.end(0, "finished")
    assert (ledger.trial(0).status, ledger.trial(0).reason) == ("failed", "no memory")
    ledger.reopen(0)
    assert (ledger.trial(0).status, ledger.trial(0).is_closed) == ("open", False)


def test_a_folder_without_a_proposal_is_no_trial(ledger):
    assert ledger.trials() == []
    ledger.propose(0, VALUES)
    Path(ledger.trial_folder(1)).mkdir()  # killed between the folder and the file
    assert [trial.number for trial in ledger.trials()] == [0]


def test_a_trial_without_a_whole_checkpoint_has_none(ledger):
    ledger.propose(0, VALUES)
    Path(ledger.trial_folder(0), "checkpoints", "step-00000010").mkdir(parents=True)
    assert ledger.trial(0).checkpoint is None
