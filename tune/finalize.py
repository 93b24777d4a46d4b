"""The end of a search: its best trial named and registered, its results written and logged."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines import tracking
from sddusr import storage
from tune import children
from tune.ledger import Ledger, Trial
from tune.options import SearchOptions
from tune.plan import Plan
from tune.plots import draw_all
from tune.results import best_of, rows_of, to_markdown, write_results

RESULTS = "results"
DONE = "done.json"
"""Written last: how many trials the results tell of."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Where a search lies and what it found."""

    folder: str
    trials: list[Trial]
    best: Trial | None
    table: str
    is_complete: bool
    """False where trials were cut off, to be resumed."""


def conclude(
    options: SearchOptions,
    plan: Plan,
    ledger: Ledger,
    run: tracking.TrackedRun,
    home: children.Home,
) -> SearchResult:
    """Write and log what was found so far; once more changes nothing."""
    home = replace(home, parent_id=home.parent_id or run.run_id)
    result = result_of(plan, ledger)
    children.mark_best(home, result.trials, result.best)
    if result.best is not None and result.best.checkpoint and options.register_model != "":
        model = options.register_model or f"sddusr-{options.preset}"
        children.register(home, result.best, result.best.checkpoint, model, plan.name)
    figures = draw_all(result.trials, plan.space, result.best)
    where = storage.join(plan.folder, RESULTS)
    _log(run, result, write_results(where, result.trials, plan.space, plan.name, figures))
    if result.is_complete:
        done = json.dumps({"num_trials": len(result.trials)}).encode()
        storage.write_atomic(storage.join(plan.folder, DONE), done)
    return result


def result_of(plan: Plan, ledger: Ledger) -> SearchResult:
    """What the ledger tells."""
    trials = ledger.trials()
    has_all = plan.num_trials is None or len(trials) >= plan.num_trials
    return SearchResult(
        folder=plan.folder,
        trials=trials,
        best=best_of(trials),
        table=to_markdown(rows_of(trials, plan.space)),
        is_complete=has_all and all(trial.status != "open" for trial in trials),
    )


def is_done(plan: Plan) -> bool:
    """Whether the results that lie there tell of as many trials as are wanted."""
    place = storage.join(plan.folder, DONE)
    if plan.num_trials is None or not storage.exists(place):
        return False
    return storage.read_json(place)["num_trials"] >= plan.num_trials


def _log(run: tracking.TrackedRun, result: SearchResult, files: dict[str, bytes]) -> None:
    """The search's own page in MLflow: files, each trial's score, which one is the best."""
    with TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.write_bytes(content)
            run.log_artifact(path, "search", copy=True)
    for trial in result.trials:
        if trial.score is not None and trial.status != "open":
            run.log_metrics({"trial/full_psnr": trial.score}, trial.number)
    best = result.best
    if best is not None:
        run.set_tags(
            {"sddusr.best_trial": str(best.number), "sddusr.best_psnr": f"{best.score:.4f}"}
        )
