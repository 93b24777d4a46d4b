"""A whole search: checks, trials, results."""

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines import tracking
from pipelines.ray_runtime import cluster
from pipelines.ray_runtime.preflight import check_shared, check_weights
from sddusr import storage
from sddusr.config import flatten
from sddusr.runs.own_folders import SEARCH, check_run_folder, check_run_name, delete_run
from tune import children
from tune.finalize import SearchResult, conclude, is_done, result_of
from tune.ledger import Ledger
from tune.options import SearchOptions
from tune.plan import Plan, make_plan
from tune.scheduler import run_trials
from tune.trial import Setting
from tune.trial_resources import share_of_cluster

log = logging.getLogger(__name__)


def run_search(options: SearchOptions) -> SearchResult:
    """Search, go on with a search, or tell what a finished one found.

    Raises:
        ValueError, OSError: a name, options, space, data or weights that cannot be used.
    """
    if options.name is not None:
        check_run_name(options.name)
    cluster.init_ray()
    plan = make_plan(options)
    check_run_folder(plan.folder, is_search=True)
    ledger = Ledger(plan.folder)
    if options.fresh:
        delete_run(plan.folder, is_search=True)
    is_new = not storage.exists(storage.join(plan.folder, SEARCH))
    if not is_new:
        _check_same(plan)
        if is_done(plan) and not options.retry_failed:
            log.info("search %s in %s is finished; --fresh searches anew", plan.name, plan.folder)
            return _deliver(options, plan, ledger)
        _check_resume(options, plan, ledger)
    check_weights(plan.config)
    uri = tracking.tracking_uri(options.tracking_uri)
    check_shared(plan.folder, plan.shards.root, uri)
    return _search(options, plan, ledger)


def _search(options: SearchOptions, plan: Plan, ledger: Ledger) -> SearchResult:
    share, scaling = share_of_cluster(options, plan.config)
    identity = json.dumps(plan.identity, indent=1).encode()
    storage.write_atomic(storage.join(plan.folder, SEARCH), identity)
    if options.retry_failed:
        for trial in ledger.trials():
            if trial.status == "failed":
                ledger.reopen(trial.number)
    with _own_run(options, plan) as (run, home):
        setting = Setting(
            folder=plan.folder,
            data=plan.shards.root,
            config=plan.config,
            space=plan.space,
            home=home,
            deadline=time.time() + 3600 * options.hours if options.hours else math.inf,
            num_threads=max(1, int(share.cpus)),
            use_gpu=share.gpus > 0,
            scaling=scaling,
            max_failures=options.max_failures,
            reports_scores=plan.halving is not None,
        )
        with children.Closer(ledger, home, plan.space):
            run_trials(
                ledger,
                plan.proposer,
                setting,
                share,
                num_trials=plan.num_trials,
                halving=plan.halving,
            )
        return conclude(options, plan, ledger, run, home)


def _check_same(plan: Plan) -> None:
    """A search never goes on silently with another config, space or data.

    Raises:
        ValueError: what differs.
    """
    before = flatten(storage.read_json(storage.join(plan.folder, SEARCH)))
    now = flatten(plan.identity)
    changed = [
        f"{key} was {before.get(key, 'not there')}, is {now.get(key, 'not there')}"
        for key in dict.fromkeys([*now, *before])
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise ValueError(
            f"{plan.folder} holds another search: {'; '.join(changed[:3])}"
            f"{' and more' if len(changed) > 3 else ''}; take another --name"
        )


def _check_resume(options: SearchOptions, plan: Plan, ledger: Ledger) -> None:
    """A search that was cut off goes on only where that is asked for.

    Raises:
        ValueError: it is not.
    """
    num_over = sum(trial.status != "open" for trial in ledger.trials())
    if not options.resume:
        of = f" of {plan.num_trials}" if plan.num_trials else ""
        raise ValueError(
            f"search {plan.name} in {plan.folder} is not finished: {num_over}{of} trials are "
            f"over; --resume goes on with it, --fresh searches anew"
        )
    log.info("going on with search %s: %d trials are over", plan.name, num_over)


@contextmanager
def _own_run(
    options: SearchOptions, plan: Plan
) -> Iterator[tuple[tracking.TrackedRun, children.Home]]:
    """The search's own MLflow run, ended with what happens inside."""
    run = tracking.open_run(
        options.tracking_uri,
        name=plan.name,
        experiment=options.experiment,
        folder=plan.folder,
        tags={"sddusr.data": plan.shards.root, "sddusr.preset": options.preset},
    )
    log.info("search %s in %s, MLflow run %s", plan.name, plan.folder, run.run_id or "to come")
    told = {"space": plan.space.described(), "search": plan.proposer.algorithm}
    run.log_params(told | plan.identity["config"] | {"data_hash": plan.shards.content_hash})
    home = children.Home(
        uri=run.uri,
        experiment=options.experiment,
        parent_id=run.run_id,
        wait_s=options.tracking_wait_s,
    )
    status = "FAILED"
    try:
        yield run, home
        status = "FINISHED"
    finally:
        run.finish(status, options.tracking_wait_s)


def _deliver(options: SearchOptions, plan: Plan, ledger: Ledger) -> SearchResult:
    """What a finished search found; what MLflow still misses is delivered."""
    result = result_of(plan, ledger)
    uri, wait_s = options.tracking_uri, options.tracking_wait_s
    for trial in result.trials:
        tracking.deliver_rest(uri, trial.folder, wait_s)
    run_id = tracking.deliver_rest(uri, plan.folder, wait_s)
    home = children.Home(uri=tracking.tracking_uri(uri), experiment="", parent_id=run_id)
    children.mark_best(home, result.trials, result.best)
    return result
