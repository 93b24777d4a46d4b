"""A shard of triplets: Parquet, one row group a row, so that reading one costs exactly one.

Raw bytes under zstd level 1 with page checksums, verified at every read; the footer, which they do
not cover, is held against the manifest's hash. Nothing here is ever unpickled.
"""

import hashlib
import io
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sddusr import storage
from sddusr.data.manifest import ShardEntry
from sddusr.data.schema import SCHEMA, from_record, max_crop_px, to_record, update_digest
from sddusr.types import Triplet

_MAGIC = b"PAR1"
_TAIL_BYTES = 8
"""At the end of a Parquet file: the footer's length and the magic."""

_ALWAYS_ALLOWED_BYTES, _MAX_RATIO = 2**26, 1000
"""A row may unpack to so many bytes, and so many times its own: photographs do to 2 or 3 times, a
black picture of 12 megapixels to 60 MB."""


class _HashingFile(io.RawIOBase):
    """Writes through to a file and hashes what it was told to write."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.num_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self.file.write(view)
        self.digest.update(view)
        self.num_bytes += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self.num_bytes


@dataclass
class _Tally:
    """What is known of a shard after its last row."""

    ids: list[str]
    crops_px: list[int]
    content: "hashlib._Hash"

    def add(self, triplet: Triplet, record: Mapping[str, Any]) -> None:
        self.ids.append(triplet.id)
        self.crops_px.append(max_crop_px(triplet))
        update_digest(self.content, record)

    def entry(self, place: str, split: str, sha256: str, num_bytes: int) -> ShardEntry:
        return ShardEntry(
            name=storage.name(place),
            split=split,
            num_rows=len(self.ids),
            num_bytes=num_bytes,
            sha256=sha256,
            footer_sha256=footer_sha256(place),
            content_sha256=self.content.hexdigest(),
            max_crop_px=min(self.crops_px, default=0),
            ids=self.ids,
        )


def write_shard(
    place: str, split: str, triplets: Iterable[Triplet], metadata: Mapping[str, str]
) -> ShardEntry:
    """Write a shard atomically and return its row of the manifest.

    Args:
        metadata: kept in the Parquet footer; read after the last triplet, so that whatever makes
            the triplets may add to it.

    Raises:
        ValueError: a triplet whose sizes do not belong together.
        OSError: see `storage.write_atomic`.
    """
    tally = _Tally([], [], hashlib.sha256())
    hashing = []

    def write(file: IO[bytes]) -> None:
        hashing.append(_HashingFile(file))
        _write_parquet(hashing[0], triplets, metadata, tally)

    storage.write_atomic(place, write)
    return tally.entry(place, split, hashing[0].digest.hexdigest(), hashing[0].num_bytes)


def _write_parquet(
    file: _HashingFile, triplets: Iterable[Triplet], metadata: Mapping[str, str], tally: _Tally
) -> None:
    with pq.ParquetWriter(
        file,
        SCHEMA,
        compression="zstd",
        compression_level=1,
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    ) as writer:
        for triplet in triplets:
            record = to_record(triplet)
            writer.write_table(pa.Table.from_pylist([record], SCHEMA), row_group_size=1)
            tally.add(triplet, record)
        writer.add_key_value_metadata({**metadata, "content_sha256": tally.content.hexdigest()})


def footer_sha256(place: str) -> str:
    """Hash of a Parquet file's footer.

    Raises:
        ValueError: no whole footer.
    """
    with storage.open_file(place) as file:
        size = file.size()
        tail = file.read_at(min(_TAIL_BYTES, size), max(size - _TAIL_BYTES, 0))
        length = int.from_bytes(tail[:4], "little") + _TAIL_BYTES
        if tail[4:] != _MAGIC or length > size:
            raise ValueError(f"{place}: truncated or no Parquet file; preprocess again")
        return hashlib.sha256(file.read_at(length, size - length)).hexdigest()


class Shard:
    """An open shard; reading is thread-safe.

    Raises:
        ValueError: no shard of ours, or damaged.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._lock = threading.Lock()
        source = storage.open_file(place)
        try:
            self._file = pq.ParquetFile(
                source, page_checksum_verification=True, pre_buffer=not storage.is_local(place)
            )
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            source.close()
            raise ValueError(f"{place}: damaged footer ({error}); preprocess again") from error
        if not self._file.schema_arrow.equals(SCHEMA):
            raise ValueError(f"{place}: columns are not those of a shard; preprocess again")
        for row_group in range(self.num_rows):
            self._check_sizes(row_group)

    @property
    def num_rows(self) -> int:
        return self._file.num_row_groups

    @property
    def metadata(self) -> dict[str, str]:
        """What `write_shard` kept in the footer."""
        pairs = self._file.metadata.metadata or {}
        return {key.decode(): value.decode(errors="replace") for key, value in pairs.items()}

    def record(self, row_group: int) -> dict[str, Any]:
        """One row; binary columns as buffers.

        Raises:
            ValueError: damaged bytes, with shard and row group.
        """
        try:
            with self._lock:
                table = self._file.read_row_group(row_group, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(row_group, error) from error
        if table.num_rows != 1 or any(column.null_count for column in table.columns):
            raise self._damaged(row_group, f"{table.num_rows} rows or missing values")
        values = {name: table.column(name)[0] for name in SCHEMA.names}
        return {
            name: value.as_buffer() if pa.types.is_binary(value.type) else value.as_py()
            for name, value in values.items()
        }

    def _check_sizes(self, row_group: int) -> None:
        """Refuse, by the footer, a row that would unpack to far more than pictures do."""
        group = self._file.metadata.row_group(row_group)
        columns = [group.column(index) for index in range(group.num_columns)]
        packed = sum(column.total_compressed_size for column in columns)
        unpacked = sum(column.total_uncompressed_size for column in columns)
        if packed < 0 or not 0 <= unpacked <= _ALWAYS_ALLOWED_BYTES + _MAX_RATIO * packed:
            why = f"{packed} bytes would unpack to {unpacked}"
            raise self._damaged(row_group, why)

    def read(self, row_group: int) -> Triplet:
        """One row as a triplet; its arrays are read-only.

        Raises:
            ValueError: damaged bytes, with shard and row group.
        """
        return self._triplet(self.record(row_group), row_group)

    def describe(self, split: str) -> ShardEntry:
        """The shard's row of the manifest, from its bytes as they read now.

        Raises:
            ValueError: damaged bytes, with shard and row group; or rows that are not those that
                were written.
        """
        tally = _Tally([], [], hashlib.sha256())
        for row_group in range(self.num_rows):
            record = self.record(row_group)
            tally.add(self._triplet(record, row_group), record)
        if tally.content.hexdigest() != self.metadata.get("content_sha256"):
            raise ValueError(f"{self.place}: rows are not those written; preprocess again")
        num_bytes = storage.info(self.place).size or 0
        return tally.entry(self.place, split, file_sha256(self.place), num_bytes)

    def close(self) -> None:
        self._file.close(force=True)

    def _triplet(self, record: Mapping[str, Any], row_group: int) -> Triplet:
        try:
            return from_record(record)
        except (ValueError, RecursionError) as error:
            raise self._damaged(row_group, error) from error

    def _damaged(self, row_group: int, why: object) -> ValueError:
        return ValueError(
            f"{self.place}: row group {row_group} is damaged ({why}); preprocess again"
        )


def file_sha256(place: str) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with storage.open_file(place) as file:
        while piece := file.read(2**22):
            digest.update(piece)
    return digest.hexdigest()
