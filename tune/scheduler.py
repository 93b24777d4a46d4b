"""How Tune runs a search: who proposes, who stops trials early, who notes that a process died.

None of them keeps what the search's folder does not hold, so a search goes on from it alone.
"""

import logging
import os
import sys
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pipelines.ray_runtime.stop_request import StopPoll
from sddusr import storage
from sddusr.training.loop import SCORE
from tune.proposals import Proposer
from tune.trial import Setting, describe_trial, run_trial
from tune.trial_resources import Share
from tune.trials import SearchFolder, Trial

HOST_BYTES = 10**8
"""Memory that a trial whose workers train asks for: no core, or two workers would not fit two."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Halving:
    """Successive halving (ASHA): at each rung, only the best go on."""

    first_step: int
    """The first rung; the next ones are `factor` times as far each."""
    last_step: int
    """No rung lies behind it."""
    factor: float
    """One of `factor` trials passes a rung."""


def run_trials(
    search: SearchFolder,
    proposer: Proposer,
    setting: Setting,
    share: Share,
    *,
    num_trials: int | None,
    halving: Halving | None,
) -> None:
    """Let Tune run trials until there are enough, or time is up."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # MLflow has it all
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a trial need not report
    # That Tune's own logs, which are off, are not there:
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    leftover = storage.join(search.folder, "ray")
    if storage.exists(leftover):
        storage.remove_folder(leftover)
    scheduler = FIFOScheduler() if halving is None else Rungs(search, halving)
    Tuner(
        tune.with_resources(
            tune.with_parameters(run_trial, setting=setting),
            {"CPU": 0, "memory": HOST_BYTES} if setting.scaling else share.resources,
        ),
        tune_config=TuneConfig(
            search_alg=Proposals(search, proposer, num_trials, setting),
            scheduler=scheduler,
            num_samples=num_trials or sys.maxsize,  # `Proposals` says when it is over
            max_concurrent_trials=share.concurrent,
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=storage.to_uri(search.folder),
            callbacks=[Verdicts(search, num_trials)],
            failure_config=FailureConfig(max_failures=setting.max_failures),
            verbose=0,
        ),
    ).fit()


class Proposals(Searcher):
    """Unfinished trials of earlier starts first, then new ones."""

    def __init__(
        self, search: SearchFolder, proposer: Proposer, num_trials: int | None, setting: Setting
    ) -> None:
        super().__init__()
        self._search, self._proposer = search, proposer
        self._num_trials, self._setting = num_trials, setting
        self._is_stop_requested = StopPoll(setting.stop_flag)
        self._unfinished = [t.number for t in search.trials() if t.status == "open"]

    def suggest(self, trial_id: str) -> Any:
        """The number of the next trial, whose values are in its folder by then."""
        if time.time() >= self._setting.deadline or self._is_stop_requested():
            return Searcher.FINISHED
        if self._unfinished:
            return {"number": self._unfinished.pop(0)}
        number = self._search.next_number()
        if self._num_trials is not None and number >= self._num_trials:
            return Searcher.FINISHED
        values = self._proposer.propose(number, self._search.trials())
        describe_trial(self._setting, self._search.run(number), number, values)
        self._search.propose(number, values)
        return {"number": number}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: the trials are read again for each proposal."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the search's folder holds it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as `save`."""


class Rungs(ASHAScheduler):
    """Tune's ASHA, its rungs filled again with what earlier starts of the search measured.

    Its verdict goes into the trial's folder, where the trial finds it. Tune would end the trial
    within a step, and a process that is torn down within PyTorch's work can abort.
    """

    def __init__(self, search: SearchFolder, halving: Halving) -> None:
        super().__init__(
            time_attr="step",
            metric=SCORE,
            mode="max",
            grace_period=halving.first_step,
            max_t=halving.last_step,
            reduction_factor=halving.factor,
            stop_last_trials=False,
        )
        self._search = search
        for earlier in search.trials():
            if earlier.status != "open":
                placeholder: Any = SimpleNamespace(trial_id=f"earlier-{earlier.number}")
                super().on_trial_add(cast(Any, None), placeholder)
                self._replay(placeholder, earlier)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        self._replay(trial, self._search.trial(trial.config["number"]))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            reason = f"behind the others at step {result['step']}"
            self._search.end(trial.config["number"], "stopped", reason)
        return TrialScheduler.CONTINUE

    def _replay(self, trial: Any, earlier: Trial) -> None:
        """What was decided then stays decided."""
        for point in earlier.curve:
            row = {"step": point.step, SCORE: point.score}
            super().on_trial_result(cast(Any, None), trial, row)


class Verdicts(Callback):
    """Logs how each trial ended, and records the failure of one whose process died."""

    def __init__(self, search: SearchFolder, num_trials: int | None) -> None:
        self._search, self._num_trials = search, num_trials

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._report(trial.config["number"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = trial.get_pickled_error() or trial.get_error() or "its process died"
        reason = " ".join(str(error).split())[:500]
        self._search.end(trial.config["number"], "failed", reason)
        self._report(trial.config["number"])

    def _report(self, number: int) -> None:
        trial, trials = self._search.trial(number), self._search.trials()
        num_over = sum(each.status != "open" for each in trials)
        score = f", best {trial.score:.3f} dB" if trial.score is not None else ""
        reason = f", {trial.reason}" if trial.reason else ""
        of = f" of {self._num_trials}" if self._num_trials else ""
        status = "paused at a checkpoint" if trial.status == "open" else trial.status
        log.info("Trial %d %s%s%s (%d%s trials done)", number, status, score, reason, num_over, of)
