#!/usr/bin/env python3
"""Pictures on disk -> Parquet shards and a manifest, one Ray Data task a shard.

A run that was killed goes on where it stopped: finished shards are found by a hash of their inputs
and parameters, and verified. The manifest is written last, so a folder without one is unfinished.
"""

import dataclasses
import logging
import sys
import time
from pathlib import Path
from typing import Any

if not __package__:  # a script of a checkout, in which only sddusr is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import pipelines  # noqa: F401  # names what is not installed


from pipelines.options.preprocess import PreprocessOptions
from pipelines.ray_runtime.shard_tasks import LOCK, claim_folder, make_shards, sweep_folder
from pipelines.reporting.preview import preview
from sddusr import secrets, storage
from sddusr.cli import command_line
from sddusr.data.folder_lock import hold_lock
from sddusr.data.layouts import find, hold_out
from sddusr.data.manifest import Manifest, build_manifest, write_manifest
from sddusr.data.prepare import ShardReport, plan_shards
from sddusr.data.source_files import Found

logger = logging.getLogger(__name__)


def preprocess(options: PreprocessOptions) -> dict[str, Any]:
    """Make the data folder and return its manifest.

    Raises:
        FileNotFoundError, ValueError: the first problem of the data, or more set aside than
            `max_errors_share`; or --out holds another run's shards, or another run writes there.
        OSError: --out cannot be written.
    """
    started = time.monotonic()
    job = options.job
    found = find(options.layout, job.root)
    if found.orphans and not job.quarantine:
        first, others = next(iter(found.orphans.values())), len(found.orphans) - 1
        raise ValueError(
            f"{job.root}: {first} ({others} more); complete it or pass --on-error quarantine"
        )
    sources = hold_out(found.sources, options.hold_out)
    plans = plan_shards(sources, options.recipe, options.pictures_per_shard)
    with hold_lock(storage.join(job.out, LOCK), job.out):
        claim_folder(
            job.out, {"root": secrets.mask(job.root), **options.parameters}, options.overwrite
        )
        manifest = _manifest(options, found, make_shards(plans, job))
        sweep_folder(job.out, {plan.name for plan in plans})
        write_manifest(job.out, manifest)
    _log_summary(manifest, job.out, time.monotonic() - started)
    return dataclasses.asdict(manifest)


def _manifest(options: PreprocessOptions, found: Found, reports: list[ShardReport]) -> Manifest:
    """The manifest of all shards, unless too much was set aside."""
    quarantined = found.orphans | {id: why for r in reports for id, why in r.quarantined.items()}
    total = len(found.sources) + len(found.orphans)
    if len(quarantined) > options.max_errors_share * total:
        first = next(iter(quarantined.values()))
        raise ValueError(
            f"{len(quarantined)} of {total} triplets cannot be used, more than --max-errors-share "
            f"{options.max_errors_share}; the first: {first}"
        )
    entries = [report.entry for report in reports if report.entry is not None]
    return build_manifest(entries, options.parameters, quarantined)


def _log_summary(manifest: Manifest, out: str, seconds: float) -> None:
    counts = ", ".join(f"{split} {count}" for split, count in manifest.counts.items())
    megabytes = sum(entry.num_bytes for entry in manifest.entries) / 1e6
    logger.info(
        "%s: rows %s; %.1f MB in %d shards, %d triplets set aside, %.1f s",
        *(out, counts, megabytes, len(manifest.shards), len(manifest.quarantined), seconds),
    )


def main(options: PreprocessOptions) -> int:
    if options.preview is None:
        preprocess(options)
        return 0
    found = find(options.layout, options.job.root)
    return 1 if preview(found, options.job, options.pair) else 0


if __name__ == "__main__":
    # By name, so that Ray sends the tasks by reference and not as a copy of this script.
    from pipelines import preprocess as this

    command_line.run(this.main, this.PreprocessOptions)
