"""From files to a shard: read, check, measure, cut, write. One call makes one shard."""

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from sddusr.data import places, samples
from sddusr.data.detail import detail_map, detail_quantiles
from sddusr.data.geometry import centered, crop, snap_box, whole
from sddusr.data.images import read_rgb
from sddusr.data.layouts import Source
from sddusr.data.manifest import SCHEMA_VERSION, SPLITS, ShardEntry
from sddusr.data.records import check_sizes
from sddusr.data.shard_file import Shard, write_shard
from sddusr.data.windows import cut_windows
from sddusr.types import Box, Triplet

SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}\.parquet")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the rows of a shard, besides the pictures."""

    window_px: int
    """Side of a training window in LR pixels."""
    stride_px: int
    """LR pixels between two training windows."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all shards of a run share, and none of it changes a row."""

    root: str
    """Folder of the dataset; provenance names files relative to it. Empty for the samples."""
    out: str
    """Folder of the shards."""
    quarantine: bool
    """Set triplets aside that cannot be used, rather than end at the first."""
    max_pixels: int
    """Pictures with more are refused."""


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """A shard to be: which triplets, in which order, made how."""

    name: str
    split: str
    sources: tuple[Source, ...]
    recipe: Recipe

    def sha256(self, root: str) -> str:
        """Hash of plan, inputs (names below `root`, sizes, times of change) and schema version."""
        inputs = [
            [place.removeprefix(root), found.size, found.mtime_ns]
            for source in self.sources
            for place in _files(source).values()
            for found in [places.info(place)]
        ]
        plan = asdict(self)
        plan["sources"] = [[s.id, s.scene, s.split, s.box] for s in self.sources]
        text = json.dumps([SCHEMA_VERSION, plan, inputs], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What became of a plan."""

    name: str
    entry: ShardEntry | None = None
    """None where an error ended the work."""
    quarantined: dict[str, str] = field(default_factory=dict)
    error: str = ""
    """The first problem, in one line; its cause is the user's data or disk, not a bug."""
    reused: bool = False
    """The shard was there already, whole and made of the same inputs."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ShardReport":
        tree = json.loads(text)
        entry = tree.pop("entry")
        return cls(entry=entry and ShardEntry(**entry), **tree)


class _Members(NamedTuple):
    lr: UInt8[np.ndarray, "h w 3"]
    ref: UInt8[np.ndarray, "rows cols 3"]
    hr: UInt8[np.ndarray, "2*h 2*w 3"]
    box: Box
    provenance: dict[str, Any]


def plan_shards(sources: list[Source], recipe: Recipe, pictures_per_shard: int) -> list[ShardPlan]:
    """Fixed ranges of each split's sorted ids: a function of the sources, not of the workers."""
    plans = []
    for split in SPLITS:
        chosen = sorted((s for s in sources if s.split == split), key=lambda source: source.id)
        for index, start in enumerate(range(0, len(chosen), pictures_per_shard)):
            plans.append(
                ShardPlan(
                    name=f"{split}-{index:05d}.parquet",
                    split=split,
                    sources=tuple(chosen[start : start + pictures_per_shard]),
                    recipe=recipe,
                )
            )
    return plans


def load_triplet(source: Source, job: Job) -> Triplet:
    """Read one whole triplet and measure its detail.

    A `val` triplet whose Ref covers the whole picture keeps its centre half along each axis, so
    that validation asks what a phone will ask; a test triplet stays as the dataset gives it.

    Raises:
        FileNotFoundError, ValueError: see `images.read_rgb`; or sizes that do not belong together.
    """
    make = _synthesize if source.lr is None else _read
    members = make(source, job)
    detail = detail_map(members.hr)
    triplet = Triplet(
        id=source.id,
        scene=source.scene,
        split=source.split,
        detail=detail,
        detail_quantiles=detail_quantiles(detail),
        lr=members.lr,
        ref=members.ref,
        hr=members.hr,
        center_box=members.box,
        provenance=members.provenance,
    )
    check_sizes(triplet)
    return _narrowed(triplet) if source.split == "val" else triplet


def _read(source: Source, job: Job) -> _Members:
    files = _files(source)
    pictures = {member: read_rgb(place, job.max_pixels) for member, place in files.items()}
    lr, hr, ref = (pictures[member].pixels for member in ("lr", "hr", "ref"))
    provenance = {
        member: {"file": _relative(files[member], job.root), "sha256": picture.sha256}
        for member, picture in pictures.items()
    }
    return _Members(lr, ref, hr, _box(source, hr.shape, ref.shape), provenance)


def _synthesize(source: Source, job: Job) -> _Members:
    photo = read_rgb(source.hr, job.max_pixels)
    file = _relative(source.hr, job.root)
    lr, ref, hr, box, record = samples.degrade(
        photo.pixels, source.id, full_ref=source.box == "whole"
    )
    provenance = {"hr": {"file": file, "sha256": photo.sha256}, "degradation": record}
    return _Members(lr, ref, hr, box, provenance)


def _box(source: Source, hr_shape: tuple[int, ...], ref_shape: tuple[int, ...]) -> Box:
    if isinstance(source.box, Box):
        return source.box
    everything = whole(*hr_shape[:2])
    rows, cols = ref_shape[:2]
    return everything if source.box == "whole" else centered(rows, cols, everything)


def _narrowed(triplet: Triplet) -> Triplet:
    everything = whole(*triplet.hr.shape[:2])
    if triplet.center_box != everything:
        return triplet
    half = snap_box(centered(everything.height // 2, everything.width // 2, everything))
    return triplet._replace(
        ref=crop(triplet.ref, half),
        center_box=half,
        provenance=triplet.provenance | {"ref_cut_to": list(half)},
    )


def _files(source: Source) -> dict[str, str]:
    """Member -> place of the files that a source has."""
    members = {"lr": source.lr, "hr": source.hr, "ref": source.ref}
    return {member: place for member, place in members.items() if place is not None}


def _relative(place: str, root: str) -> str:
    return place.removeprefix(root).lstrip("/") if root else posixpath.basename(place)


def triplets_of(plan: ShardPlan, job: Job, quarantined: dict[str, str]) -> Iterator[Triplet]:
    """The rows of a shard.

    Args:
        quarantined: takes the triplets that were set aside, and why.

    Raises:
        FileNotFoundError, ValueError: see `load_triplet`; unless the job sets them aside.
    """
    for source in plan.sources:
        try:
            triplet = load_triplet(source, job)
        except (FileNotFoundError, ValueError) as error:
            if not job.quarantine:
                raise
            quarantined[source.id] = str(error)
            continue
        if source.split == "train":
            yield from cut_windows(triplet, plan.recipe.window_px, plan.recipe.stride_px)
        else:
            yield triplet


def make_shard(plan: ShardPlan, job: Job) -> ShardReport:
    """Make one shard, unless it is there already, whole and made of the same inputs.

    Problems of the data or of the disk are returned, not raised: a task far away that raises
    reaches its user as a page of traceback.
    """
    try:
        metadata = {"plan_sha256": plan.sha256(job.root), "max_pixels": str(job.max_pixels)}
        return _finished(plan, job, metadata) or _made(plan, job, metadata)
    except (ValueError, OSError) as error:
        return ShardReport(name=plan.name, error=getattr(error, "strerror", None) or str(error))


def _made(plan: ShardPlan, job: Job, metadata: dict[str, str]) -> ShardReport:
    quarantined: dict[str, str] = {}

    def rows() -> Iterator[Triplet]:
        yield from triplets_of(plan, job, quarantined)
        metadata["quarantined"] = json.dumps(quarantined, sort_keys=True)

    entry = write_shard(places.join(job.out, plan.name), plan.split, rows(), metadata)
    return ShardReport(name=plan.name, entry=entry, quarantined=quarantined)


def _finished(plan: ShardPlan, job: Job, metadata: dict[str, str]) -> ShardReport | None:
    try:
        with closing(Shard(places.join(job.out, plan.name))) as shard:
            before = shard.metadata
            if before.get("plan_sha256") != metadata["plan_sha256"]:
                return None
            quarantined = json.loads(before["quarantined"])
            same_limit = before.get("max_pixels") == metadata["max_pixels"]
            if quarantined and not (job.quarantine and same_limit):
                return None  # what was set aside may be usable, or has to be reported, this time
            entry = shard.describe(plan.split)
    except (FileNotFoundError, ValueError):
        return None  # absent or damaged: it is made again
    return ShardReport(name=plan.name, entry=entry, quarantined=quarantined, reused=True)
