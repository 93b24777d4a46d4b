"""A search in MLflow: a run of its own, and a child for each trial, found again by its folder."""

import logging
import threading
from dataclasses import dataclass

from pipelines import tracking
from sddusr.config import Config, flatten, to_dict
from tune.ledger import Ledger, Trial
from tune.space import Space

BEST_TAG = "sddusr.best"

_MLFLOW_STATUS = {
    "finished": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
    "open": "KILLED",
}

CLOSE_WAIT_S = 5.0
"""How long each trial's last records wait for an MLflow that is away: its own process has waited
before, and there may be many trials."""

POLL_S = 2.0
"""Between two looks for trials that are over."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Home:
    """Where the runs of a search go."""

    uri: str
    experiment: str
    parent_id: str = ""
    """MLflow's id of the search's run; empty while MLflow is away."""
    wait_s: float = tracking.END_WAIT_S
    """How long the end of a run waits for an MLflow that is away."""


def open_child(home: Home, trial: Trial, space: Space, config: Config) -> tracking.TrackedRun:
    """A trial's run, the same one however often the trial is started."""
    run = _open(home, trial, space)
    run.log_params(_searched(trial, space) | flatten(to_dict(config)))
    return run


def close_child(home: Home, trial: Trial, space: Space) -> None:
    """End the run of a trial, whose process may have been ended by force; an open trial's run goes
    on when the search does."""
    run = _open(home, trial, space)
    run.set_tags({"sddusr.status": trial.status, "sddusr.reason": trial.reason})
    if trial.best is not None and trial.status != "open":
        told = {
            "search/best_psnr": trial.best.score,
            "search/seconds": trial.curve[-1].seconds,
            "search/num_steps": trial.curve[-1].step,
            "search/peak_mb": trial.progress.peak_bytes and trial.progress.peak_bytes / 1e6,
            "search/num_parameters": trial.progress.num_parameters,
        }
        known = {name: value for name, value in told.items() if value is not None}
        run.log_metrics(known, trial.curve[-1].step)
    run.finish(_MLFLOW_STATUS[trial.status], CLOSE_WAIT_S)


def mark_best(home: Home, trials: list[Trial], best: Trial | None) -> None:
    """Tag each trial with whether it is the best, and with the search that it belongs to."""
    for trial in trials:
        run = tracking.follow_run(home.uri, trial.folder)
        tags = {BEST_TAG: "true" if trial is best else "false"}
        run.set_tags(tags | ({tracking.PARENT_TAG: home.parent_id} if home.parent_id else {}))
        run.leave(CLOSE_WAIT_S)


def register(home: Home, trial: Trial, checkpoint: str, model: str, search: str) -> None:
    """Make a trial's best checkpoint a version of the registered model."""
    run = tracking.follow_run(home.uri, trial.folder)
    tags = {"sddusr.checkpoint": checkpoint.rpartition("/")[2], "sddusr.search": search}
    run.register_model(model, checkpoint, tags)
    run.leave(home.wait_s)


def _open(home: Home, trial: Trial, space: Space) -> tracking.TrackedRun:
    values = " ".join(f"{name}={_short(value)}" for name, value in _searched(trial, space).items())
    tags = {"sddusr.trial": str(trial.number)}
    return tracking.open_run(
        home.uri,
        name=f"trial {trial.number} {values}",
        experiment=home.experiment,
        folder=trial.folder,
        tags=tags | ({tracking.PARENT_TAG: home.parent_id} if home.parent_id else {}),
    )


def _searched(trial: Trial, space: Space) -> dict[str, object]:
    names = space.short_names()
    return {names[field]: value for field, value in trial.values.items()}


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class Closer:
    """A thread that ends the MLflow runs of trials that are over, while others go on: an MLflow
    that is slow or away must not hold up Tune."""

    def __init__(self, ledger: Ledger, home: Home, space: Space) -> None:
        self._ledger, self._home, self._space = ledger, home, space
        self._stop = threading.Event()
        self._closed: set[int] = set()
        self._thread = threading.Thread(target=self._run, name="closer", daemon=True)

    def __enter__(self) -> "Closer":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.close_all()
        self._leave_open_ones()

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            self.close_all()

    def close_all(self) -> None:
        """End the runs of all trials that are over, each once."""
        for trial in self._ledger.trials():
            if trial.number in self._closed or trial.status == "open":
                continue
            try:
                if not trial.is_closed:
                    close_child(self._home, trial, self._space)
                    self._ledger.close(trial.number)
                self._closed.add(trial.number)
            except (OSError, ValueError) as error:
                log.warning("MLflow run of trial %d not ended yet: %s", trial.number, error)

    def _leave_open_ones(self) -> None:
        """End the runs of trials that were cut off; they go on when the search does."""
        for trial in self._ledger.trials():
            if trial.status == "open":
                close_child(self._home, trial, self._space)
