"""A trial is a training run like any other: exact when resumed, and logged once."""

from collections import Counter
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from ray.train import ScalingConfig

from pipelines.ray_runtime import fit, run_clock
from pipelines.ray_runtime.worker import Outcome, RayReporter
from pipelines.tracking.background import mirror
from sddusr.checkpoint import load_model, read_checkpoint
from sddusr.training.loop import SCORE, Progress
from tests.pretend_gpu import pretend_gpu
from tests.tune.conftest import OF_SIX, SMALL, TOKENS, TOO_LARGE, URI, propose
from tune import trial as hosted
from tune.trial import TrialReporter, run_trial


def scores(trial):
    return [(point.step, point.score) for point in trial.curve]


@pytest.fixture
def unbroken(setting, tmp_path):
    """The trial as it comes out when nothing happens, and its weights."""
    elsewhere = replace(setting, folder=str(tmp_path / "unbroken"))
    search = propose(elsewhere, 0, SMALL)
    run_trial({"number": 0}, elsewhere)
    trial = search.trial(0)
    assert (trial.status, [step for step, _ in scores(trial)]) == ("finished", [2, 4, 6])
    return trial, load_model(trial.folder).state_dict()


def assert_the_same(search, unbroken, server):
    trial, weights = unbroken
    ours = search.trial(0)
    assert (ours.status, scores(ours)) == ("finished", scores(trial))
    assert ours.best.num_parameters == trial.best.num_parameters > 1000
    assert ours.best.peak_mb > 10
    for name, value in load_model(ours.folder).state_dict().items():
        assert torch.equal(value, weights[name])
    mirror(ours.folder, URI)
    run = server.only_run()
    rows = Counter((point.key, point.step) for point in run.metrics)
    assert set(rows.values()) == {1}
    assert {step for key, step in rows if key == "train/total"} == set(range(1, 7))
    assert {step for key, step in rows if key == "val/full_psnr"} == {2, 4, 6}
    assert len(set(run.files)) == len(run.files)


def test_a_trial_sets_its_values_and_logs_them_under_short_names(setting, search, server):
    propose(setting, 3, SMALL)
    run_trial({"number": 3}, setting)
    mirror(search.run(3).folder, URI)
    run = server.only_run()
    assert (run.params["N"], run.params["crop_px"]) == ("2", "16")
    assert run.params[TOKENS] == "2"
    assert run.tags["sddusr.trial"] == "3"
    checkpoint = read_checkpoint(search.run(3).folder)
    assert checkpoint.config.model.dictionary.num_tokens == 2


def test_a_trial_that_is_out_of_time_saves_and_goes_on_exactly(setting, search, server, unbroken):
    propose(setting, 0, SMALL)
    for _ in range(2):  # each start gets one step done
        run_trial({"number": 0}, replace(setting, deadline=0.0))
        assert search.trial(0).status == "open"
    assert read_checkpoint(search.run(0).folder).progress["step"] == 2
    run_trial({"number": 0}, setting)
    assert_the_same(search, unbroken, server)


def test_a_trial_that_is_killed_does_again_what_no_checkpoint_holds(
    setting, search, server, unbroken, monkeypatch
):
    propose(setting, 0, SMALL)

    def end_within_step_4(self, step, pictures):
        if step == 4:  # after its score was noted, before its checkpoint
            raise SystemExit

    show = TrialReporter.show
    monkeypatch.setattr(TrialReporter, "show", end_within_step_4)
    with pytest.raises(SystemExit):
        run_trial({"number": 0}, setting)
    monkeypatch.setattr(TrialReporter, "show", show)
    assert search.trial(0).status == "open"
    assert [step for step, _ in scores(search.trial(0))] == [2, 4]
    assert read_checkpoint(search.run(0).folder).progress["step"] < 4
    run_trial({"number": 0}, setting)
    assert_the_same(search, unbroken, server)


def test_what_a_trial_raises_is_its_outcome(setting, search, server):
    propose(setting, 0, TOO_LARGE)
    run_trial({"number": 0}, setting)
    trial = search.trial(0)
    assert trial.status == "failed"
    assert "128" in trial.reason
    assert "\n" not in trial.reason


def test_a_trial_that_is_stopped_early_leaves_with_a_checkpoint(
    setting, search, server, monkeypatch
):
    propose(setting, 0, SMALL)
    told = []

    def report(row):
        told.append(row["step"])
        if row["step"] == 4:
            search.end(0, "stopped", "behind")

    monkeypatch.setattr(hosted.tune, "report", report)
    run_trial({"number": 0}, replace(setting, reports_scores=True))
    trial = search.trial(0)
    assert (trial.status, trial.reason, told) == ("stopped", "behind", [2, 4])
    assert [step for step, _ in scores(trial)] == [2, 4]
    assert read_checkpoint(trial.folder).progress["best_step"] == trial.best.step


def test_a_trial_on_a_gpu_mixes_no_devices(setting, search, monkeypatch):
    """All of it but backward, which asks for a driver: steps, validation, checkpoint and scores."""
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: None)
    monkeypatch.setattr(hosted, "take_share_of_gpu", lambda: None)
    train = replace(OF_SIX.train, num_steps=2)
    propose(setting, 0, SMALL)
    with pretend_gpu() as gpu:
        run_trial(
            {"number": 0}, replace(setting, use_gpu=True, config=replace(OF_SIX, train=train))
        )
    trial = search.trial(0)
    assert (trial.status, [step for step, _ in scores(trial)]) == ("finished", [2])
    assert gpu.counts.convolutions
    assert not gpu.counts.nchw, gpu.counts.explain(gpu.counts.nchw)
    waits = [line for line in gpu.counts.syncs if "learner.py" in line or "feed.py" in line]
    assert all(" __init__: " in line for line in waits), waits  # no step waits


class Clock:
    """In the place of the module `time`; moved by hand."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


def test_the_time_of_workers_goes_on_from_earlier_starts(setting, search, monkeypatch):
    """The first start ends with the score of step 4 noted and no checkpoint of it, the second one
    repeats steps 3 and 4. A row takes 10 s, and each start comes 1000 s after the last."""
    clock, starts = Clock(), iter([(1, 2, 3, 4), (3, 4), (5, 6)])

    class Workers:
        """Matches Ray Train's trainer."""

        def __init__(self, _, train_loop_config, **__):
            self.settings = train_loop_config

        def fit(self):
            clock.now_s += 1000
            reporter = RayReporter(self.settings)
            for step in next(starts):
                clock.now_s += 10
                reporter.log(step, {"other": 1.0} if step % 2 else {SCORE: 25.0 + step})
            progress = Progress(data_hash="", step=step, best_step=step, best_score=25.0 + step)
            outcome = Outcome(progress=asdict(progress), stopped=step < 6)
            return SimpleNamespace(return_value=asdict(outcome))

    monkeypatch.setattr(run_clock, "time", clock)
    monkeypatch.setattr(fit, "TorchTrainer", Workers)
    monkeypatch.setattr(fit, "clear_final_error", lambda folder: None)
    propose(setting, 0, SMALL)
    for seconds in ({2: 20, 4: 40}, {2: 20, 4: 40}, {2: 20, 4: 40, 6: 60}):
        run_trial({"number": 0}, replace(setting, scaling=ScalingConfig()))
        assert {point.step: point.seconds for point in search.trial(0).curve} == seconds
    assert search.trial(0).status == "finished"
