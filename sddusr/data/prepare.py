"""From files to a shard: load, cut, write. One call makes one shard."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field

from sddusr import storage
from sddusr.data.loading import Job, Pairing, files_of, load_triplet
from sddusr.data.manifest import SCHEMA_VERSION, SPLITS, ShardEntry
from sddusr.data.shard import Shard, write_shard
from sddusr.data.source_files import Source
from sddusr.data.windows import cut_windows
from sddusr.imaging.allocator import keeping_freed_memory
from sddusr.registration.residual import RefRegistration
from sddusr.secrets import mask
from sddusr.types import Triplet

SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}\.parquet")

CHECKS = 1
"""Version of the checks that a shard's triplets went through; shards of another one are remade."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the rows of a shard, besides the pictures."""

    window_px: int
    """Side of a training window in LR pixels."""
    stride_px: int
    """LR pixels between two training windows."""
    margin_px: int | None = None
    """LR pixels around Ref's box that training windows reach; None is all of the picture."""
    pairing: Pairing | None = None
    """None where the layout gives triplets."""
    register_ref: RefRegistration = "none"
    """How Ref of a given box is registered to the centre; pairs are registered in any case."""


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
            # The slash keeps the hashes that shards were written with before.
            ["/" + storage.relative(place, root), found.size, found.mtime_ns]
            for source in self.sources
            for place in files_of(source).values()
            for found in [storage.info(place)]
        ]
        plan = asdict(self)
        plan["sources"] = [
            [s.id, s.scene, s.split, s.box, *(["halved"] if s.halved else [])] for s in self.sources
        ]
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
        return json.dumps(asdict(self) | {"entry": self.entry and self.entry._asdict()})

    @classmethod
    def from_json(cls, text: str) -> "ShardReport":
        tree = json.loads(text)
        entry = tree.pop("entry")
        return cls(entry=entry and ShardEntry(**entry), **tree)


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


def triplets_of(plan: ShardPlan, job: Job, quarantined: dict[str, str]) -> Iterator[Triplet]:
    """The rows of a shard.

    Args:
        quarantined: takes the triplets that were set aside, and why.

    Raises:
        FileNotFoundError, ValueError: see `loading.load_triplet`; unless the job sets them aside.
    """
    for source in plan.sources:
        try:
            with keeping_freed_memory():
                triplet = load_triplet(source, job, plan.recipe.pairing, plan.recipe.register_ref)
        except (FileNotFoundError, ValueError) as error:
            if not job.quarantine:
                raise
            quarantined[source.id] = mask(str(error))
            continue
        if source.split == "train":
            recipe = plan.recipe
            yield from cut_windows(triplet, recipe.window_px, recipe.stride_px, recipe.margin_px)
        else:
            yield triplet


def make_shard(plan: ShardPlan, job: Job) -> ShardReport:
    """Make one shard, unless it is there already, whole and made of the same inputs.

    Problems of the data or of the disk are returned, not raised: a task far away that raises
    reaches its user as a page of traceback.
    """
    try:
        metadata = {
            "plan_sha256": plan.sha256(job.root),
            "max_pixels": str(job.max_pixels),
            "checked": str(CHECKS if job.checked else 0),
        }
        return _finished(plan, job, metadata) or _made(plan, job, metadata)
    except (ValueError, OSError) as error:
        return ShardReport(name=plan.name, error=_in_one_line(error))


def _in_one_line(error: ValueError | OSError) -> str:
    """What went wrong, with the path that it happened to."""
    reason = getattr(error, "strerror", None)
    if reason is None:
        return str(error)
    path = getattr(error, "filename", None)
    return reason if path is None or str(path) in reason else f"{path}: {reason}"


def _made(plan: ShardPlan, job: Job, metadata: dict[str, str]) -> ShardReport:
    quarantined: dict[str, str] = {}

    def rows() -> Iterator[Triplet]:
        yield from triplets_of(plan, job, quarantined)
        metadata["quarantined"] = json.dumps(quarantined, sort_keys=True)

    entry = write_shard(storage.join(job.out, plan.name), plan.split, rows(), metadata)
    return ShardReport(name=plan.name, entry=entry, quarantined=quarantined)


def _finished(plan: ShardPlan, job: Job, metadata: dict[str, str]) -> ShardReport | None:
    try:
        with closing(Shard(storage.join(job.out, plan.name))) as shard:
            before = shard.metadata
            if any(before.get(key) != metadata[key] for key in ("plan_sha256", "checked")):
                return None
            quarantined = json.loads(before["quarantined"])
            same_limit = before.get("max_pixels") == metadata["max_pixels"]
            if quarantined and not (job.quarantine and same_limit):
                return None  # what was set aside may be usable, or has to be reported, this time
            entry = shard.describe(plan.split)
    except (FileNotFoundError, ValueError):
        return None  # absent or damaged: it is made again
    return ShardReport(name=plan.name, entry=entry, quarantined=quarantined, reused=True)
