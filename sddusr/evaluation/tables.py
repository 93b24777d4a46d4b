"""An evaluation's numbers as files: Parquet and CSV of pictures and means, JSON and text."""

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from sddusr import storage
from sddusr.evaluation.metrics import PROTOCOLS
from sddusr.evaluation.results import SCHEMA, Gain, ImageScores, Summary


def write_tables(
    folder: str,
    images: Sequence[ImageScores],
    summaries: Sequence[Summary],
    differences: Sequence[Gain],
    text: str,
    about: Mapping[str, str],
) -> list[str]:
    """Write per_image and means (each as .parquet and .csv), summary.json and table.txt.

    Args:
        about: what was scored and how, in words; `read_tables` gives it back.

    Returns:
        Their places.
    """
    others = others_of(images)
    means = pa.Table.from_pylist([summary.as_row() for summary in summaries], means_schema(others))
    table = pa.Table.from_pylist([image.as_row() for image in images], with_others(SCHEMA, others))
    described = {
        "about": dict(about),
        "means": [
            {name: _json_value(value) for name, value in summary.as_row().items()}
            for summary in summaries
        ],
        "gains": [
            gain._asdict() | {"interval": gain.interval and gain.interval._asdict()}
            for gain in differences
        ],
    }
    files = {
        **as_files("per_image", table),
        **as_files("means", means),
        "summary.json": json.dumps(described, indent=1, allow_nan=False).encode(),
        "table.txt": text.encode(),
    }
    for name, content in files.items():
        storage.write_atomic(storage.join(folder, name), content)
    return [storage.join(folder, name) for name in files]


def read_tables(folder: str) -> tuple[list[ImageScores], dict[str, str]]:
    """What `write_tables` was given: the scores of each picture, and what was scored.

    Raises:
        FileNotFoundError: the folder holds no evaluation.
        ValueError: damaged files, or of another version.
    """
    place = storage.join(folder, "per_image.parquet")
    if not storage.exists(place):
        raise FileNotFoundError(
            f"{folder}: no per_image.parquet there; give the --out of pipelines/evaluate.py"
        )
    try:
        content = io.BytesIO(storage.read_bytes(place))
        table = pq.read_table(content, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0][:160]
        raise ValueError(f"{place}: damaged ({reason}); run pipelines/evaluate.py again") from error
    summary = storage.read_json(storage.join(folder, "summary.json"))
    if not _is_known(table.schema) or "about" not in summary:
        raise ValueError(f"{folder}: results of another version; run pipelines/evaluate.py again")
    images = [ImageScores.from_row(row) for row in table.to_pylist()]
    if unknown := {image.protocol for image in images} - set(PROTOCOLS):
        raise ValueError(f"{place}: damaged (protocol {unknown.pop()!r}); run "
                         f"pipelines/evaluate.py again")  # fmt: skip
    return images, summary["about"]


def as_files(name: str, table: pa.Table) -> dict[str, bytes]:
    """A table as the contents of NAME.parquet and NAME.csv."""
    parquet, comma_separated = io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet, write_page_checksum=True)
    pyarrow.csv.write_csv(table, comma_separated)
    return {f"{name}.parquet": parquet.getvalue(), f"{name}.csv": comma_separated.getvalue()}


def others_of(images: Iterable[ImageScores]) -> list[str]:
    """The metrics of other libraries that there are, in their order."""
    return list(dict.fromkeys(name for image in images for name in image.others or {}))


def with_others(schema: pa.Schema, names: Iterable[str]) -> pa.Schema:
    """A schema with a column for each metric of other libraries."""
    return pa.schema([*schema, *(pa.field(name, pa.float64()) for name in names)])


def means_schema(names: Iterable[str]) -> pa.Schema:
    """The columns of means.parquet and means.csv."""
    head = pa.schema(
        [(name, pa.string()) for name in ("method", "protocol")] + [("num_pictures", pa.int64())]
    )
    return with_others(pa.schema([*head, *list(SCHEMA)[3:]]), names)


def _is_known(schema: pa.Schema) -> bool:
    fields, known = list(schema), list(SCHEMA)
    others = fields[len(known) :]
    return fields[: len(known)] == known and all(
        ":" in field.name and field.type == pa.float64() for field in others
    )


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
