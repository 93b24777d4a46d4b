"""The index of a data folder: the only thing a reader trusts, and written last."""

import gc
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple, get_origin, get_type_hints

from sddusr import storage

SCHEMA_VERSION = 2
"""Of shards and manifest; raised when a reader of the older one would go wrong, or when the same
pictures make other rows: finished shards are then made again."""

MANIFEST = "manifest.json"

SPLITS: tuple[str, ...] = ("train", "val", "test")


class ShardEntry(NamedTuple):
    """What the manifest knows about one shard; a tuple, as there may be a hundred thousand."""

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

    @cached_property
    def entries(self) -> list[ShardEntry]:
        """The shards by field."""
        return [ShardEntry(**shard) for shard in self.shards]


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
        shards=[entry._asdict() for entry in entries],
        quarantined=quarantined,
    )


def write_manifest(root: str, manifest: Manifest) -> None:
    tree = {each.name: getattr(manifest, each.name) for each in fields(manifest)}
    text = json.dumps(tree, indent=1, sort_keys=True)
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
    with _collection_off():
        return _read(place)


def _read(place: str) -> Manifest:
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
    _check_entries(entries, place)
    return manifest


@contextmanager
def _collection_off() -> Iterator[None]:
    """Inside, nothing is looked for that could be freed: of a hundred thousand shards' entries
    nothing can, and looking takes as long as reading them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


KINDS = {name: get_origin(kind) or kind for name, kind in get_type_hints(ShardEntry).items()}
"""Of an entry's fields; a list's is `list`."""


def _check_entries(entries: list[ShardEntry], place: str) -> None:
    """Check all by columns, which takes a third of a second for a hundred thousand; where one is
    wrong, find it."""
    if not _are_good(entries):
        damaged = next(entry for entry in entries if not _are_good([entry]))
        raise ValueError(f"{place}: entry {damaged.name!r} is damaged; preprocess again")


def _are_good(entries: list[ShardEntry]) -> bool:
    columns = {name: [getattr(entry, name) for entry in entries] for name in KINDS}
    ids = columns["ids"]
    return (
        all(set(map(type, column)) <= {KINDS[name]} for name, column in columns.items())
        and min(chain(columns["num_rows"], columns["num_bytes"], columns["max_crop_px"]), default=0)
        >= 0
        and set(columns["split"]) <= set(SPLITS)
        and list(map(len, ids)) == columns["num_rows"]
        and set(map(type, chain.from_iterable(ids))) <= {str}
    )
