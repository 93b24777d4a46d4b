"""The index of a data folder: the only thing a reader trusts, and written last."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from sddusr import storage
from sddusr.config import from_dict

SCHEMA_VERSION = 2
"""Of shards and manifest; raised when a reader of the older one would go wrong, or when the same
pictures make other rows: finished shards are then made again."""

MANIFEST = "manifest.json"

SPLITS: tuple[str, ...] = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """What the manifest knows about one shard."""

    name: str
    split: str
    num_rows: int
    num_bytes: int
    sha256: str
    """Of the file."""
    footer_sha256: str
    """Of the Parquet footer, which page checksums do not cover; checked at each opening."""
    content_sha256: str
    """Of the rows alone: the same on every machine and for every Parquet version."""
    max_crop_px: int
    """The largest LR crop that fits every row and its centre box; 0 without rows."""
    ids: list[str]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A finished data folder."""

    schema_version: int
    content_hash: str
    """Names what a run was trained on; a function of rows and parameters, not of the machine."""
    parameters: dict[str, Any]
    counts: dict[str, int]
    """Rows in each split."""
    shards: list[dict[str, Any]]
    quarantined: dict[str, str] = field(default_factory=dict)
    """Triplets set aside, and why."""

    @property
    def entries(self) -> list[ShardEntry]:
        return [from_dict(ShardEntry, shard) for shard in self.shards]


def build_manifest(
    entries: list[ShardEntry],
    parameters: dict[str, Any],
    quarantined: dict[str, str],
) -> Manifest:
    counts = dict.fromkeys(SPLITS, 0)
    for entry in entries:
        counts[entry.split] += entry.num_rows
    contents = [[entry.name, entry.split, entry.content_sha256] for entry in entries]
    summary = json.dumps([SCHEMA_VERSION, parameters, contents], sort_keys=True)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        content_hash=hashlib.sha256(summary.encode()).hexdigest(),
        parameters=parameters,
        counts=counts,
        shards=[asdict(entry) for entry in entries],
        quarantined=quarantined,
    )


def write_manifest(root: str, manifest: Manifest) -> None:
    text = json.dumps(asdict(manifest), indent=1, sort_keys=True)
    storage.write_atomic(storage.join(root, MANIFEST), text.encode())


def read_manifest(root: str) -> Manifest:
    """Read a data folder's manifest.

    Raises:
        FileNotFoundError: there is none: not a data folder, or its preprocessing has not ended.
        ValueError: it is not one of ours, or of another schema version.
    """
    place = storage.join(root, MANIFEST)
    if not storage.exists(place):
        raise FileNotFoundError(
            f"{place}: no such file; run pipelines/preprocess.py to the end with --out {root}"
        )
    tree = storage.read_json(place)
    version = tree.get("schema_version") if isinstance(tree, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{place}: schema version is {version}, need {SCHEMA_VERSION}; preprocess again"
        )
    try:
        manifest = Manifest(**tree)
        entries = manifest.entries
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{place}: not a manifest ({error}); preprocess again") from error
    for entry in entries:
        _check_entry(entry, place)
    return manifest


def _check_entry(entry: ShardEntry, place: str) -> None:
    texts = (entry.name, entry.split, entry.sha256, entry.footer_sha256, entry.content_sha256)
    numbers = (entry.num_rows, entry.num_bytes, entry.max_crop_px)
    good = (
        all(isinstance(text, str) for text in texts)
        and all(type(number) is int and number >= 0 for number in numbers)
        and entry.split in SPLITS
        and isinstance(entry.ids, list)
        and len(entry.ids) == entry.num_rows
        and all(isinstance(id, str) for id in entry.ids)
    )
    if not good:
        raise ValueError(f"{place}: entry {entry.name!r} is damaged; preprocess again")
