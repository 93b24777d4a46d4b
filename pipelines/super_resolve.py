#!/usr/bin/env python3
"""Enlarge a wide picture with the help of a tele picture of its centre.

python pipelines/super_resolve.py wide.jpg tele.jpg --out sr.png
python pipelines/super_resolve.py wides/ teles/ --checkpoint DIR --out results/
python pipelines/super_resolve.py '*/wide.heic' '*/tele.heic' --checkpoint DIR --out results/
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import tyro
from tqdm.contrib.logging import logging_redirect_tqdm

from pipelines.ray_runtime.persistent_paths import lasting
from pipelines.ray_runtime.upscaling import make_all, make_here
from sddusr import pretrained, storage
from sddusr.checkpoint import resolve
from sddusr.cli import command_line
from sddusr.data.layouts import read_boxes
from sddusr.geometry.box import Box
from sddusr.imaging.images import MAX_PIXELS, MOST_PIXELS
from sddusr.model.matching.fast_search import MatchingMode
from sddusr.model.precision import Precision
from sddusr.photos.find_pairs import FoundPairs, are_files, find_pairs
from sddusr.photos.jobs import Device, Job, Placement, Settings, hash_checkpoint, result_places
from sddusr.photos.sidecar import is_finished
from sddusr.registration.color_match import ColorConfig
from sddusr.registration.pairing import PairConfig
from sddusr.registration.register import RegistrationConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SuperResolveOptions:
    """Make wide pictures twice as large, with the detail that a tele picture has of their centre.

    The tele picture is found in the wide one and brought to its colours, whatever its zoom (1.3 to
    5 times), size and place; a pair that does not match is refused with the reason. Beside each
    result NAME.png lies NAME.json: what was found, done and needed.
    """

    wide: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="WIDE")]
    """The wide picture; or a folder of them, or a quoted pattern such as 'shots/*_wide.jpg'."""
    tele: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TELE")]
    """The tele picture of the same scene; or a folder, paired by file name without extension, or a
    pattern, paired by what the wildcards stand for."""
    checkpoint: str | None = None
    """The trained network: a training run's folder (its best checkpoint) or one checkpoint. Left
    out: the small one that ships, whose card is sddusr/pretrained/compact/CARD.md."""
    out: str = "sr.png"
    """The result; its extension is its format. Or a folder, where results are named like the wide
    pictures."""
    format: Annotated[str | None, tyro.conf.arg(metavar="EXTENSION")] = None
    """Format of the results in a folder: png, jpg, tif or webp. Left out: the wide picture's own,
    PNG where that cannot be written."""
    quality: int = 95
    """Of JPEG and WebP, 1 to 100."""
    strip_metadata: bool = False
    """Leave out EXIF (camera, time, place) and colour profile, which are carried over otherwise."""
    explain: bool = False
    """Also draw NAME.explain.jpg: where the tele picture was found, which regions were searched,
    how sure each match is and where it came from."""
    overwrite: bool = False
    """Make results anew that are finished. Without it they are skipped, as long as pictures,
    checkpoint and options are the same."""

    centered: bool = False
    """Do not search: the tele picture has the result's density and lies in its middle."""
    box: Annotated[tuple[int, int, int, int] | None, tyro.conf.arg(metavar="Y0 Y1 X0 X1")] = None
    """Do not search: the tele picture has the result's density and lies there, in the result's
    pixels (twice the wide picture's), ends excluded."""
    boxes: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """The same for many pictures: a JSON file of NAME: [y0, y1, x0, x1]."""
    refine: Literal["flow", "none"] = "flow"
    """After the search, follow what the distance between the lenses shifts, or leave it."""
    color: Literal["matrix", "channels", "none"] = "matrix"
    """Bring the tele picture to the wide picture's colours: fully, channel by channel, or not."""

    memory: Annotated[str | None, tyro.conf.arg(metavar="SIZE")] = None
    """Keep to this much memory, such as 4GB, by making the picture in smaller pieces. Shared out
    among --num-actors. Finding the tele picture takes up to 2GB at 12 megapixels in any case."""
    device: Device = "auto"
    """Where the network runs; auto takes the GPU where there is one."""
    precision: Precision = "float32"
    """Number format of the network; bfloat16 is rougher, and several times faster on GPUs and on
    processors that compute it."""
    matching: MatchingMode = "auto"
    """How cells of the wide picture find their like in the tele picture's part: exact compares all,
    fast the likely ones; auto is fast for large pictures, and exact where a check finds fast too
    rough."""
    num_actors: int = 1
    """Of many pictures, how many are made at a time; each process holds the weights."""
    max_megapixels: float = MAX_PIXELS / 1e6
    """Larger pictures are refused before they are decoded."""


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
    _check(options)
    settings = _settings(options)
    single = are_files(*(storage.absolute(place) for place in (options.wide, options.tele)))
    plan = _plan(options, settings)
    for job in plan.finished:
        log.info("%s: finished before, --overwrite makes it anew", job.out)
    failures = dict(plan.failures)
    with logging_redirect_tqdm():
        if single or len(plan.todo) == 1:
            failures |= _make_one(plan.todo, settings, raises=single)
        elif plan.todo:
            failures |= _make_many(plan.todo, settings, options.num_actors)
    if not single:
        _log_summary(plan, failures)
    return 1 if failures else 0


def _check(options: SuperResolveOptions) -> None:
    """Refuse options that do not fit, before anything is read."""
    given = [name for name in ("box", "boxes") if getattr(options, name) is not None]
    if len(given) + options.centered > 1:
        raise ValueError("--centered, --box and --boxes each say where Ref lies; give one of them")
    if not 1 <= options.quality <= 100:
        raise ValueError(f"--quality is {options.quality}, need 1 to 100")
    if options.num_actors < 1:
        raise ValueError(f"--num-actors is {options.num_actors}, need 1 or more")
    if not 0 < options.max_megapixels <= MOST_PIXELS / 1e6:
        raise ValueError(
            f"--max-megapixels is {options.max_megapixels}, need more than 0 and at most "
            f"{MOST_PIXELS // 10**6}"
        )


def _settings(options: SuperResolveOptions) -> Settings:
    if options.checkpoint is None:
        log.info("no --checkpoint: the network that ships, see sddusr/pretrained/compact/CARD.md")
    checkpoint = resolve(storage.absolute(options.checkpoint or pretrained.COMPACT))
    return Settings(
        checkpoint=checkpoint,
        checkpoint_hash=hash_checkpoint(checkpoint),
        device=options.device,
        precision=options.precision,
        matching=options.matching,
        memory_bytes=command_line.parse_bytes(options.memory, "--memory")
        if options.memory
        else None,
        max_pixels=round(options.max_megapixels * 1e6),
        quality=options.quality,
        strip_metadata=options.strip_metadata,
        explain=options.explain,
        pair=PairConfig(
            registration=RegistrationConfig(refine=options.refine),
            color=ColorConfig(kind=options.color),
        ),
    )


def _plan(options: SuperResolveOptions, settings: Settings) -> Plan:
    """Pair the pictures and set aside what is finished, or cannot be done."""
    wide, tele = storage.absolute(options.wide), storage.absolute(options.tele)
    found, single = find_pairs(wide, tele), are_files(wide, tele)
    if (options.boxes if single else options.box) is not None:
        raise ValueError("--box y0 y1 x0 x1 goes with two files, --boxes FILE with many")
    boxes = read_boxes([options.boxes]) if options.boxes else None
    out = lasting(options.out, "--out")
    outs = result_places(found.pairs, out, options.format, single)
    without = [pair.name for pair in found.pairs if boxes is not None and pair.name not in boxes]
    plan = Plan([], [], found.orphans | dict.fromkeys(without, f"no box in {options.boxes}"))
    for job in _jobs(options, found, boxes, outs):
        try:
            finished = is_finished(job, settings) and not options.overwrite
        except command_line.USER_ERRORS as error:
            if single:
                raise
            plan.failures[job.name] = str(error)
        else:
            (plan.finished if finished else plan.todo).append(job)
    return plan


def _jobs(
    options: SuperResolveOptions,
    found: FoundPairs,
    boxes: Mapping[str, Box] | None,
    outs: Mapping[str, str],
) -> Iterator[Job]:
    everywhere: Placement = "middle" if options.centered else "find"
    if options.box is not None:
        everywhere = Box(*options.box)
    for name, wide, tele in found.pairs:
        if boxes is None or name in boxes:
            placement = everywhere if boxes is None else boxes[name]
            yield Job(name, wide, tele, outs[name], placement)


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
