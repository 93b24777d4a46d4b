"""A whole search: checks, trials, results."""

import json
import logging
import math
import time

from pipelines.ray_runtime import cluster
from pipelines.ray_runtime.preflight import check_shared, check_weights
from pipelines.ray_runtime.stop_request import StoppableWork
from pipelines.tracking import links
from pipelines.tracking.background import describe, mirror, mirrored
from sddusr import storage
from sddusr.cli import command_line
from sddusr.config import flatten
from sddusr.data.folder_lock import hold_lock
from sddusr.runs.inputs import RunInputs, datasets_of
from sddusr.runs.own_folders import SEARCH, check_run_folder, check_run_name, delete_run
from sddusr.runs.run_folder import RunFolder
from tune.finalize import SearchResult, finalize, is_done, reopen_failed, result_of
from tune.options import SearchOptions
from tune.plan import Plan, make_plan
from tune.scheduler import run_trials
from tune.trial import Setting
from tune.trial_resources import share_of_cluster
from tune.trials import SearchFolder

log = logging.getLogger(__name__)


def run_search(options: SearchOptions) -> SearchResult:
    """Search, go on with a search, or tell what a finished one found.

    Joins the cluster of `ray.init` or RAY_ADDRESS, or starts one in this process.

    Returns:
        The trials, the best of them, a table, and as `.result_grid` Ray Tune's own `ResultGrid`.

    Raises:
        ValueError, OSError: a name, options, space, data or weights that cannot be used.
        StoppedError: SIGTERM or Ctrl-C; the trials that ran have saved a checkpoint.
    """
    if options.name is not None:
        check_run_name(options.name)
    cluster.init_ray()
    plan = make_plan(options)
    check_run_folder(plan.folder, is_search=True)
    lock = storage.join(plan.storage, f".{plan.name}.lock")
    with hold_lock(lock, f"search {plan.name} in {plan.folder}"):
        return _search_locked(options, plan)


def _search_locked(options: SearchOptions, plan: Plan) -> SearchResult:
    search = SearchFolder(plan.folder)
    if options.fresh:
        delete_run(plan.folder, is_search=True)
    is_new = not storage.exists(storage.join(plan.folder, SEARCH))
    if not is_new:
        _check_same(plan)
        if is_done(plan) and not options.retry_failed:
            log.info("search %s in %s is finished; --fresh searches anew", plan.name, plan.folder)
            return _mirror_finished(options, plan, search)
        _check_resume(options, plan, search)
    check_weights(plan.config)
    uri = links.tracking_uri(options.tracking_uri)
    check_shared(plan.storage, plan.shards.root, uri)
    return _search(options, plan, search, uri)


def _search(options: SearchOptions, plan: Plan, search: SearchFolder, uri: str) -> SearchResult:
    share, scaling = share_of_cluster(options, plan.config)
    identity = json.dumps(plan.identity, indent=1).encode()
    storage.write_atomic(storage.join(plan.folder, SEARCH), identity)
    if options.retry_failed:
        reopen_failed(plan, search)
    stoppable = StoppableWork[None]()
    setting = Setting(
        folder=plan.folder,
        data=plan.shards.root,
        config=plan.config,
        space=plan.space,
        tracking_uri=uri,
        experiment=options.experiment,
        deadline=time.time() + 3600 * options.hours if options.hours else math.inf,
        stop_flag=stoppable.flag,
        num_threads=max(1, int(share.cpus)),
        use_gpu=share.gpus > 0,
        scaling=scaling,
        max_failures=options.max_failures,
        reports_scores=plan.halving is not None,
        inputs=_inputs(plan),
    )
    run = RunFolder(plan.folder)
    _describe(options, plan, run, uri)
    with mirrored(run, uri, options.tracking_wait_s) as background:
        run_id = background.run_id or "is created later"
        log.info("search %s in %s, MLflow run %s", plan.name, plan.folder, run_id)
        stoppable.run(
            lambda: run_trials(
                search,
                plan.proposer,
                setting,
                share,
                num_trials=plan.num_trials,
                halving=plan.halving,
            )
        )
        for trial in search.trials():
            if trial.status == "open":  # its process may have been ended by force
                search.run(trial.number).set_state("paused")
        if stoppable.signal_number:
            raise command_line.StoppedError(
                f"stopped; trials that ran saved a checkpoint in {plan.folder}, and the same "
                f"command with --resume goes on",
                stoppable.signal_number,
            )
        return finalize(options, plan, search, run)


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


def _check_resume(options: SearchOptions, plan: Plan, search: SearchFolder) -> None:
    """A search that was cut off goes on only where that is asked for.

    Raises:
        ValueError: it is not.
    """
    num_over = sum(trial.status != "open" for trial in search.trials())
    if not options.resume:
        of = f" of {plan.num_trials}" if plan.num_trials else ""
        raise ValueError(
            f"search {plan.name} in {plan.folder} is not finished: {num_over}{of} trials are "
            f"over; --resume goes on with it, --fresh searches anew"
        )
    log.info("going on with search %s: %d trials are over", plan.name, num_over)


def _describe(options: SearchOptions, plan: Plan, run: RunFolder, uri: str) -> None:
    """Say what the search is, for its own MLflow run."""
    searched = {"space": plan.space.described(), "search": plan.proposer.algorithm}
    describe(
        run,
        uri,
        name=plan.name,
        experiment=options.experiment,
        params=searched | plan.identity["config"] | {"data_hash": plan.shards.content_hash},
        tags={"sddusr.data": plan.shards.root, "sddusr.preset": options.preset},
        inputs=_inputs(plan),
    )


def _inputs(plan: Plan) -> RunInputs:
    """The data that every trial trains on and is validated with."""
    return RunInputs(datasets=datasets_of(plan.shards, ("train", "val")))


def _mirror_finished(options: SearchOptions, plan: Plan, search: SearchFolder) -> SearchResult:
    """What a finished search found; what MLflow still misses is sent."""
    if RunFolder(plan.folder).config() is not None:
        mirror(plan.folder, links.tracking_uri(options.tracking_uri), options.tracking_wait_s)
    return result_of(plan, search)
