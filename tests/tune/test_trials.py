"""A search on disk: what was written first stays, and what is damaged is named."""

import logging
from pathlib import Path

import pytest

from sddusr.runs.checked_json import DamagedError
from sddusr.training.loop import SCORE
from tune.trials import NUM_PARAMETERS, PEAK_MB, SECONDS, Point, SearchFolder

VALUES = {"model.dictionary.num_tokens": 64, "data.shift_px": (2, 8), "losses.mask_weight": 1e-3}


@pytest.fixture(params=["local", "bucket"])
def search(request, tmp_path) -> SearchFolder:
    bucket = f"fsspec+memory://searches{tmp_path}"
    return SearchFolder(str(tmp_path) if request.param == "local" else bucket)


def validate(search: SearchFolder, number: int, point: Point) -> None:
    row = {SCORE: point.score, SECONDS: point.seconds}
    row |= {PEAK_MB: point.peak_mb or 0, NUM_PARAMETERS: point.num_parameters or 0}
    search.run(number).log_metrics(point.step, row)


def test_a_trial_reads_back_as_it_was_written(search):
    search.propose(0, VALUES)
    assert search.trial(0).status == "open"
    assert (search.trial(0).best, search.trial(0).score) == (None, None)
    curve = (Point(10, 28.5, 3.5, 1000.0, 5), Point(20, 28.25, 7.0, 1000.0, 5))
    search.run(0).log_metrics(5, {"train/total": 1})
    for point in curve:
        validate(search, 0, point)
    search.end(0, "stopped", "behind")
    (trial,) = search.trials()
    assert (trial.values, trial.curve) == (VALUES, curve)
    assert (trial.status, trial.reason) == ("stopped", "behind")
    assert trial.best == curve[0]
    assert SearchFolder(search.folder).trials() == [trial]


def test_a_step_that_is_repeated_counts_once_and_with_its_last_value(search):
    search.propose(0, VALUES)
    validate(search, 0, Point(10, 28.5, 3.5))
    assert search.trial(0).score == 28.5
    again = SearchFolder(search.folder)
    validate(again, 0, Point(10, 28.75, 3.25))
    assert [point.score for point in search.trial(0).curve] == [28.75]


def test_the_first_outcome_stays_until_the_trial_is_reopened(search):
    search.propose(0, VALUES)
    search.end(0, "failed", "no memory")
    search.end(0, "finished")
    assert (search.trial(0).status, search.trial(0).reason) == ("failed", "no memory")
    search.reopen(0)
    assert search.trial(0).status == "open"


def test_a_folder_without_a_proposal_is_no_trial(tmp_path):
    search = SearchFolder(str(tmp_path))
    assert (search.trials(), search.next_number()) == ([], 0)
    search.propose(0, VALUES)
    Path(search.run(1).folder).mkdir()  # killed between the folder and the file
    assert [trial.number for trial in search.trials()] == [0]
    assert search.next_number() == 1


def test_a_damaged_proposal_is_named_once_and_its_number_is_not_used_again(tmp_path, caplog):
    search = SearchFolder(str(tmp_path))
    for number in range(3):
        search.propose(number, VALUES)
    place = Path(search.run(1).place("proposal.json"))
    place.write_text(place.read_text().replace("64", "65"))  # another value, were it believed
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        assert [trial.number for trial in search.trials()] == [0, 2]
    assert caplog.text.count(f"{place}: damaged (its checksum does not match)") == 1
    assert search.next_number() == 3
    with pytest.raises(DamagedError, match=r"proposal\.json: damaged"):
        search.trial(1)


def test_a_trial_without_a_whole_checkpoint_has_none(tmp_path):
    search = SearchFolder(str(tmp_path))
    search.propose(0, VALUES)
    Path(search.run(0).folder, "checkpoints", "step-00000010").mkdir(parents=True)
    assert search.trial(0).checkpoint is None
