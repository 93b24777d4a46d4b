"""The end of a search: its best trial named and registered, its results written and logged."""

import json
from dataclasses import dataclass

from pipelines.tracking.links import DATA_TAG, SCORE_TAG
from sddusr import storage
from sddusr.runs.run_folder import RunFolder
from tune.grid import SearchGrid
from tune.options import SearchOptions
from tune.plan import Plan
from tune.plots import draw_all
from tune.results import best_of, rows_of, to_markdown, write_results
from tune.trials import SearchFolder, Trial

BEST_TAG = "sddusr.best"

RESULTS = "results"
DONE = "done.json"
"""Written last: how many trials were proposed; the results leave out those whose proposal is
damaged."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Where a search lies and what it found."""

    folder: str
    trials: list[Trial]
    best: Trial | None
    table: str
    is_complete: bool
    """False where trials were cut off, to be resumed."""

    @property
    def result_grid(self) -> SearchGrid:
        """Ray Tune's own object: a `Result` for each trial of the whole search."""
        return SearchGrid(self.folder)


def finalize(
    options: SearchOptions, plan: Plan, search: SearchFolder, run: RunFolder
) -> SearchResult:
    """Write and log what was found so far; once more changes nothing."""
    result = result_of(plan, search)
    for trial in result.trials:
        is_best = "true" if trial is result.best else "false"
        search.run(trial.number).set_tags({BEST_TAG: is_best})
    if result.best is not None and result.best.checkpoint and options.register_model != "":
        model = options.register_model or f"sddusr-{options.preset}"
        place = result.best.checkpoint
        tags = {
            "sddusr.checkpoint": storage.name(place),
            "sddusr.search": plan.name,
            SCORE_TAG: f"{result.best.score:.4f}",
            DATA_TAG: plan.shards.content_hash,
        }
        search.run(result.best.number).register_model(model, place, tags)
    figures = draw_all(result.trials, plan.space, result.best)
    where = storage.join(plan.folder, RESULTS)
    files = write_results(where, result.trials, plan.space, plan.name, figures)
    run.link_artifacts({f"search/{name}": storage.join(where, name) for name in files})
    _log(run, result)
    if result.is_complete:
        done = json.dumps({"num_trials": search.next_number()}).encode()
        storage.write_atomic(storage.join(plan.folder, DONE), done)
    return result


def result_of(plan: Plan, search: SearchFolder) -> SearchResult:
    """What the trials show so far."""
    trials = search.trials()
    has_all = plan.num_trials is None or search.next_number() >= plan.num_trials
    return SearchResult(
        folder=plan.folder,
        trials=trials,
        best=best_of(trials),
        table=to_markdown(rows_of(trials, plan.space)),
        is_complete=has_all and all(trial.status != "open" for trial in trials),
    )


def is_done(plan: Plan) -> bool:
    """Whether the results that lie there are those of as many trials as are wanted."""
    place = storage.join(plan.folder, DONE)
    if plan.num_trials is None or not storage.exists(place):
        return False
    return storage.read_json(place)["num_trials"] >= plan.num_trials


def reopen_failed(plan: Plan, search: SearchFolder) -> None:
    """Let failed trials go on; until they are over, the search is not done."""
    failed = [trial.number for trial in search.trials() if trial.status == "failed"]
    if failed:
        storage.remove(storage.join(plan.folder, DONE))
    for number in failed:
        search.reopen(number)


def _log(run: RunFolder, result: SearchResult) -> None:
    """The search's own metrics and tags: each trial's score, which one is the best."""
    for trial in result.trials:
        if trial.score is not None and trial.status != "open":
            run.log_metrics(trial.number, {"trial/full_psnr": trial.score})
    best = result.best
    if best is not None:
        run.set_tags(
            {"sddusr.best_trial": str(best.number), "sddusr.best_psnr": f"{best.score:.4f}"}
        )
