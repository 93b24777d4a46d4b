"""A finished data folder: the rows of its shards, read in any order."""

import threading
from collections.abc import Iterator
from typing import NamedTuple

from sddusr import storage
from sddusr.data.manifest import Manifest, read_manifest
from sddusr.data.shard import Shard, file_sha256, footer_sha256
from sddusr.types import Triplet


class Row(NamedTuple):
    """Where a triplet lies; light, so a whole epoch of them is nothing."""

    id: str
    shard: int
    """Index into the manifest's shards."""
    row_group: int


class ShardSet:
    """A finished data folder, opened for reading; safe to share between threads.

    Raises:
        FileNotFoundError: no manifest, or a shard that it names is missing.
        ValueError: another schema version, a shard of another size, or a name that leads out of
            the folder.
    """

    def __init__(self, root: str) -> None:
        self.root = str(root)
        self.manifest: Manifest = read_manifest(self.root)
        self.entries = self.manifest.entries
        self._places = [storage.member(self.root, entry.name) for entry in self.entries]
        sizes = storage.file_sizes(self.root)  # one listing, not a question for each shard
        for entry, place in zip(self.entries, self._places, strict=True):
            size = sizes.get(entry.name)
            if size is None:
                raise FileNotFoundError(f"{place}: the manifest names it; preprocess again")
            if size != entry.num_bytes:
                raise ValueError(
                    f"{place}: {size} bytes, the manifest says {entry.num_bytes}; preprocess again"
                )
        self._open: dict[int, Shard] = {}
        self._lock = threading.Lock()

    @property
    def content_hash(self) -> str:
        """Names what a run was trained on."""
        return self.manifest.content_hash

    def rows(self, split: str) -> list[Row]:
        """All rows of a split, in the manifest's order."""
        return [
            Row(id, index, row_group)
            for index, entry in enumerate(self.entries)
            if entry.split == split
            for row_group, id in enumerate(entry.ids)
        ]

    def max_crop_px(self, split: str) -> int:
        """Side of the largest LR crop that fits every row of a split; 0 without rows."""
        sides = [e.max_crop_px for e in self.entries if e.split == split and e.num_rows]
        return min(sides, default=0)

    def read(self, row: Row) -> Triplet:
        """Read one row; its arrays are read-only.

        Raises:
            ValueError: damaged bytes, with shard and row group.
        """
        return self._shard(row.shard).read(row.row_group)

    def iterate(self, split: str) -> Iterator[Triplet]:
        """Read a split in the manifest's order."""
        return (self.read(row) for row in self.rows(split))

    def verify(self) -> None:
        """Hash every shard again.

        Raises:
            ValueError: one is not what the manifest says, with its name.
        """
        for entry, place in zip(self.entries, self._places, strict=True):
            if file_sha256(place) != entry.sha256:
                raise ValueError(f"{place}: SHA-256 is not the manifest's; preprocess again")

    def close(self) -> None:
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _shard(self, index: int) -> Shard:
        with self._lock:
            if index not in self._open:
                place, entry = self._places[index], self.entries[index]
                if footer_sha256(place) != entry.footer_sha256:
                    raise ValueError(f"{place}: damaged footer; preprocess again")
                shard = Shard(place)
                if shard.num_rows != entry.num_rows:
                    raise ValueError(
                        f"{place}: {shard.num_rows} rows, the manifest says {entry.num_rows}"
                    )
                self._open[index] = shard
            return self._open[index]
