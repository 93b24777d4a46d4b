"""Shards made in parallel into a folder that one run owns."""

import functools
import json
import logging
from contextlib import closing
from typing import Any

from pipelines.ray_runtime import cluster
from pipelines.ray_runtime.persistent_paths import check_seen_by_all
from pipelines.ray_runtime.tasks import run_tasks
from sddusr import local_files, storage
from sddusr.cli import command_line
from sddusr.data.loading import Job, files_of
from sddusr.data.manifest import MANIFEST
from sddusr.data.prepare import SHARD_NAME, ShardPlan, ShardReport, make_shard

logger = logging.getLogger(__name__)

PLAN = "plan.json"
"""What an out folder was begun with; guards it against shards of another run."""

LOCK = ".preprocess.lock"
"""Held while a run writes to its out folder."""

OF_A_PLAN = frozenset({"root", "layout", "window_px"})
"""Keys of every plan of ours."""


def claim_folder(out: str, plan: dict[str, Any], overwrite: bool) -> None:
    """Refuse a folder that another run began, and take back its manifest until we are done."""
    place = storage.join(out, PLAN)
    before = storage.read_json(place) if storage.exists(place) else {}
    if not isinstance(before, dict) or not before.keys() >= OF_A_PLAN:
        _check_holds_nothing_of_others(out)
    elif before != plan and not overwrite:
        differing = sorted(name for name in before | plan if before.get(name) != plan.get(name))
        raise ValueError(
            f"{out}: holds shards made with another {' and '.join(differing)}; choose another "
            "--out or pass --overwrite"
        )
    storage.remove(storage.join(out, MANIFEST))
    local_files.remove_temporaries(out)
    storage.write_atomic(place, json.dumps(plan, indent=1, sort_keys=True).encode())


def _check_holds_nothing_of_others(out: str) -> None:
    """What we would delete or replace is ours: a folder that we did not begin holds none of it.

    Raises:
        ValueError: it does.
    """
    names = storage.list_files(out) if storage.exists(out) else {}
    for name in names:
        if name in (PLAN, MANIFEST) or SHARD_NAME.fullmatch(name):
            raise ValueError(
                f"{out}: holds {name}, which no run of ours wrote and this one would replace; "
                f"choose another --out"
            )


def make_shards(plans: list[ShardPlan], job: Job) -> list[ShardReport]:
    """Make all shards, in any order; the first problem ends the work.

    Raises:
        ValueError: data that cannot be used, or a node that does not see inputs or results.
    """
    if plans:
        cluster.init_ray()
        inputs = files_of(plans[0].sources[0]).values() if job.root else [job.out]
        check_seen_by_all(files={"--root": next(iter(inputs))}, folders={"--out": job.out})
    reports: dict[str, ShardReport] = {}
    with closing(run_tasks(functools.partial(_task, plans, job), len(plans))) as tasks:
        for report in map(ShardReport.from_json, tasks):
            if report.error or report.entry is None:
                raise ValueError(report.error)
            reports[report.name] = report
            state = "was finished" if report.reused else "written"
            shown = len(reports), len(plans), report.name, state, report.entry.num_rows
            logger.info("%d/%d shards: %s %s, %d rows", *shown)
    return [reports[plan.name] for plan in plans]


def _task(plans: list[ShardPlan], job: Job, index: int) -> str:
    command_line.mask_streams()
    return make_shard(plans[index], job).to_json()


def sweep_folder(out: str, names: set[str]) -> None:
    """Remove what no reader sees but takes space: shards of an earlier plan, and what a worker
    that was killed left half written."""
    local_files.remove_temporaries(out)
    for name, place in storage.list_files(out).items():
        if name not in names and SHARD_NAME.fullmatch(name):
            storage.remove(place)
