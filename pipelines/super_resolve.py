#!/usr/bin/env python3
"""Upscale wide images with the help of tele images of their centres, one pair or many."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

if not __package__:  # a script of a checkout, in which only sddusr is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import pipelines  # noqa: F401  # names what is not installed

import tyro
from tqdm.contrib.logging import logging_redirect_tqdm

from pipelines.ray_runtime.persistent_paths import persistent_path
from pipelines.ray_runtime.upscaling import make_all, make_here
from pipelines.tracking.model_uris import local_checkpoint
from sddusr import local_files, storage
from sddusr.cli import command_line
from sddusr.data.folder_lock import hold_lock
from sddusr.data.layouts import read_boxes
from sddusr.photos.find_pairs import are_files, find_pairs
from sddusr.photos.jobs import Job, Settings, result_places
from sddusr.photos.options import UpscaleOptions
from sddusr.photos.sidecar import is_finished

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SuperResolveOptions(UpscaleOptions):
    """Make wide images twice as large, with the detail that a tele image has of their centre.

    The tele image is found in the wide one and brought to its colours, whatever its zoom (1.2 to
    10 times), size and place; a pair that does not match is refused with the reason. Beside each
    result NAME.png lies NAME.json: what was found, done and needed. Examples:

    python pipelines/super_resolve.py wide.jpg tele.jpg --out sr.jpg

    python pipelines/super_resolve.py wides/ teles/ --checkpoint RUN --out results/ --memory 4GB

    python pipelines/super_resolve.py '*/wide.heic' '*/tele.heic' --out results/
    """

    wide: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="WIDE")]
    """The wide image; or a folder of them, or a quoted pattern such as 'shots/*_wide.jpg'."""
    tele: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TELE")]
    """The tele image of the same scene; or a folder, paired by file name without extension, or a
    pattern, paired by what the wildcards stand for."""
    out: str = "sr.png"
    """The result; its extension is its format. Or a folder, where results are named like the wide
    images."""
    format: Annotated[str | None, tyro.conf.arg(metavar="EXTENSION")] = None
    """Format of the results in a folder: png, jpg, tif or webp. By default the wide image's own,
    PNG where that cannot be written."""
    boxes: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """A JSON file of NAME: [y0, y1, x0, x1], as --box for many images."""
    overwrite: bool = False
    """Make results again that are finished. Without it they are skipped, as long as images,
    checkpoint and options are the same."""
    num_actors: int = 1
    """Processes that make images at a time; each holds the weights, and they share --memory."""

    def check(self) -> None:
        super().check()
        if self.boxes is not None and (self.centered or self.box is not None):
            raise ValueError(
                "--centered, --box and --boxes each say where Ref lies; give one of them"
            )
        if self.num_actors < 1:
            raise ValueError(f"--num-actors is {self.num_actors}, need 1 or more")


class Plan(NamedTuple):
    """What is to be done, before anything is."""

    todo: list[Job]
    finished: list[Job]
    failures: dict[str, str]
    """Name -> why nothing can be made of it."""


def main(options: SuperResolveOptions) -> int:
    """Make every picture that is not finished; 1 if some of many could not be made.

    Raises:
        FileNotFoundError: a picture, all partners, or the checkpoint is missing.
        ValueError: options that do not fit, or a single pair that cannot be used.
    """
    options.check()
    if options.checkpoint is not None:
        options = replace(options, checkpoint=local_checkpoint(options.checkpoint))
    else:
        log.info("no --checkpoint: the network that ships, see sddusr/pretrained/compact/CARD.md")
    settings = options.settings()
    single = are_files(*(storage.absolute(place) for place in (options.wide, options.tele)))
    plan = _plan(options, settings)
    for job in plan.finished:
        log.info("%s: finished before, --overwrite makes it anew", job.out)
    failures = dict(plan.failures)
    if plan.todo:
        with logging_redirect_tqdm(), hold_lock(_lock(options, single), options.out):
            if single or len(plan.todo) == 1:
                failures |= _make_one(plan.todo, settings, raises=single)
            else:
                failures |= _make_many(plan.todo, settings, options.num_actors)
    if not single:
        _log_summary(plan, failures)
    return 1 if failures else 0


def _lock(options: SuperResolveOptions, single: bool) -> str:
    """Of one result, or of the folder of many."""
    out = persistent_path(options.out, "--out")
    if single:
        return storage.join(storage.parent(out), f".{storage.name(out)}.lock")
    return storage.join(out, ".super-resolve.lock")


def _plan(options: SuperResolveOptions, settings: Settings) -> Plan:
    """Pair the pictures and set aside what is finished, or cannot be done."""
    wide, tele = storage.absolute(options.wide), storage.absolute(options.tele)
    found, single = find_pairs(wide, tele), are_files(wide, tele)
    if (options.boxes if single else options.box) is not None:
        raise ValueError("--box y0 y1 x0 x1 goes with two files, --boxes FILE with many")
    boxes = read_boxes([options.boxes]) if options.boxes else None
    out = persistent_path(options.out, "--out")
    outs = result_places(found.pairs, out, options.format, single, explain=options.explain)
    for folder in {storage.parent(place) for place in outs.values()}:
        local_files.remove_orphaned_temporaries(folder)
    without = [pair.name for pair in found.pairs if boxes is not None and pair.name not in boxes]
    plan = Plan([], [], found.orphans | dict.fromkeys(without, f"no box in {options.boxes}"))
    for pair in found.pairs:
        if pair.name in without:
            continue
        placement = options.placement() if boxes is None else boxes[pair.name]
        job = Job(*pair, outs[pair.name], placement)
        try:
            finished = is_finished(job, settings) and not options.overwrite
        except command_line.USER_ERRORS as error:
            if single:
                raise
            plan.failures[job.name] = str(error)
        else:
            (plan.finished if finished else plan.todo).append(job)
    return plan


def _make_one(todo: Sequence[Job], settings: Settings, raises: bool) -> dict[str, str]:
    """In this process; the failure of a pair that was named itself is the command's."""
    failures = {}
    for job in todo:
        try:
            _log_made(job, make_here(job, settings))
        except command_line.USER_ERRORS as error:
            if raises:
                raise
            failures[job.name] = str(error)
    return failures


def _make_many(todo: Sequence[Job], settings: Settings, num_actors: int) -> dict[str, str]:
    failures = {}
    for outcome in make_all(todo, settings, num_actors):
        if outcome.error:
            log.warning("%s: FAILED: %s", outcome.job.name, outcome.error)
            failures[outcome.job.name] = outcome.error
        else:
            _log_made(outcome.job, outcome.record)
    return failures


def _log_made(job: Job, record: dict[str, Any]) -> None:
    (height, width), memory = record["result"]["size"], record["memory"]
    seconds, peak = sum(record["seconds"].values()), memory["peak_bytes"]
    log.info("%s: %d x %d, %.1f s, %.1f GB", job.out, height, width, seconds, peak / 1e9)
    if peak > (memory["limit_bytes"] or peak):
        log.warning("%s: took %.2f GB, more than --memory", job.out, peak / 1e9)


def _log_summary(plan: Plan, failures: Mapping[str, str]) -> None:
    num_made = len(plan.todo) - len(failures.keys() - plan.failures.keys())
    log.info("%d made, %d finished before, %d failed", num_made, len(plan.finished), len(failures))
    for name, why in sorted(failures.items()):
        log.error("failed: %s: %s", name, why)


if __name__ == "__main__":
    # By name, so that Ray pickles jobs and settings by reference.
    from pipelines import super_resolve as this

    command_line.run(this.main, this.SuperResolveOptions)
