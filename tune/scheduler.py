"""How Tune runs a search: who proposes, who stops trials early, who notes that a process died.

None of them keeps what the ledger does not hold, so a search goes on from the ledger alone.
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

from sddusr import storage
from sddusr.training.loop import SCORE
from tune.ledger import Ledger, Trial
from tune.proposals import Proposer
from tune.trial import Setting, run_trial
from tune.trial_resources import Share

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
    ledger: Ledger,
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
    leftover = storage.join(ledger.folder, "ray")
    if storage.exists(leftover):
        storage.remove_folder(leftover)
    scheduler = FIFOScheduler() if halving is None else Rungs(ledger, halving)
    Tuner(
        tune.with_resources(
            tune.with_parameters(run_trial, setting=setting),
            {"CPU": 0, "memory": HOST_BYTES} if setting.scaling else share.resources,
        ),
        tune_config=TuneConfig(
            search_alg=Proposals(ledger, proposer, num_trials, setting.deadline),
            scheduler=scheduler,
            num_samples=num_trials or sys.maxsize,  # `Proposals` says when it is over
            max_concurrent_trials=share.concurrent,
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=ledger.folder,
            callbacks=[Verdicts(ledger, num_trials)],
            failure_config=FailureConfig(max_failures=setting.max_failures),
            verbose=0,
        ),
    ).fit()


class Proposals(Searcher):
    """Unfinished trials of earlier starts first, then new ones."""

    def __init__(
        self, ledger: Ledger, proposer: Proposer, num_trials: int | None, deadline: float
    ) -> None:
        super().__init__()
        self._ledger, self._proposer = ledger, proposer
        self._num_trials, self._deadline = num_trials, deadline
        self._unfinished = [t.number for t in ledger.trials() if t.status == "open"]

    def suggest(self, trial_id: str) -> Any:
        """The number of the next trial, whose values are in the ledger by then."""
        if time.time() >= self._deadline:
            return Searcher.FINISHED
        if self._unfinished:
            return {"number": self._unfinished.pop(0)}
        trials = self._ledger.trials()
        number = len(trials)
        if self._num_trials is not None and number >= self._num_trials:
            return Searcher.FINISHED
        self._ledger.propose(number, self._proposer.propose(number, trials))
        return {"number": number}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: the ledger is read anew for each proposal."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger holds it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as `save`."""


class Rungs(ASHAScheduler):
    """Tune's ASHA, its rungs filled again with what earlier starts of the search measured.

    Its verdict goes into the ledger, where the trial finds it; if Tune ended the trial, that would
    be amid a step, and a process that is torn down amid PyTorch's work can abort.
    """

    def __init__(self, ledger: Ledger, halving: Halving) -> None:
        super().__init__(
            time_attr="step",
            metric=SCORE,
            mode="max",
            grace_period=halving.first_step,
            max_t=halving.last_step,
            reduction_factor=halving.factor,
            stop_last_trials=False,
        )
        self._ledger = ledger
        for earlier in ledger.trials():
            if earlier.status != "open":
                stand_in: Any = SimpleNamespace(trial_id=f"earlier-{earlier.number}")
                super().on_trial_add(cast(Any, None), stand_in)
                self._replay(stand_in, earlier)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        self._replay(trial, self._ledger.trial(trial.config["number"]))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            reason = f"behind the others at step {result['step']}"
            self._ledger.end(trial.config["number"], "stopped", reason)
        return TrialScheduler.CONTINUE

    def _replay(self, trial: Any, told: Trial) -> None:
        """What was decided then stays decided."""
        for point in told.curve:
            row = {"step": point.step, SCORE: point.score}
            super().on_trial_result(cast(Any, None), trial, row)


class Verdicts(Callback):
    """Tells how each trial ended, and notes the failure of one whose process died."""

    def __init__(self, ledger: Ledger, num_trials: int | None) -> None:
        self._ledger, self._num_trials = ledger, num_trials

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trial.config["number"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        told = trial.get_pickled_error() or trial.get_error() or "its process died"
        reason = " ".join(str(told).split())[:500]
        self._ledger.end(trial.config["number"], "failed", reason)
        self._tell(trial.config["number"])

    def _tell(self, number: int) -> None:
        trials = self._ledger.trials()
        trial, num_over = trials[number], sum(t.status != "open" for t in trials)
        score = f", best {trial.score:.3f} dB" if trial.score is not None else ""
        reason = f", {trial.reason}" if trial.reason else ""
        of = f" of {self._num_trials}" if self._num_trials else ""
        status = "saved, to be resumed" if trial.status == "open" else trial.status
        log.info("trial %d is %s%s%s; %d%s are over", number, status, score, reason,
                 num_over, of)  # fmt: skip
