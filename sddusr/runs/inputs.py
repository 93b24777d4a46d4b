"""What a run starts from: its data, and for an evaluation the network that it scores.

It is stored as inputs.json in the run's folder, so that MLflow can receive it at any time.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sddusr import storage
from sddusr.data.dataset import ShardSet
from sddusr.runs.run_folder import INPUTS, RunFolder
from sddusr.secrets import mask


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """One split of a data folder."""

    name: str
    digest: str
    """The manifest's content hash."""
    source: str
    """Folder or URI, without credentials."""
    split: str
    num_rows: int
    num_shards: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The checkpoint that an evaluation scores, and the training run that wrote it."""

    checkpoint: str
    """Name of the checkpoint's folder."""
    key: str = ""
    """Of the training run; finds it in MLflow."""
    experiment: str = ""
    run_id: str = ""
    """MLflow's id of the training run, where it is known."""
    metrics: tuple[str, ...] = ()
    """Which of the evaluation's metrics are the network's own."""


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """All that a run starts from."""

    datasets: tuple[DatasetEntry, ...] = ()
    origin: Origin | None = None

    def dataset_of(self, metric: str) -> DatasetEntry | None:
        """The data that a metric such as `val/full_psnr` was measured on."""
        split = metric.partition("/")[0]
        return next((entry for entry in self.datasets if entry.split == split), None)


def datasets_of(shards: ShardSet, splits: Sequence[str]) -> tuple[DatasetEntry, ...]:
    """The splits of a data folder that hold rows."""
    source = mask(shards.root)
    folder = storage.name(source)
    found = []
    for split in splits:
        entries = [entry for entry in shards.entries if entry.split == split and entry.num_rows]
        if entries:
            found.append(
                DatasetEntry(
                    name=f"{folder} {split}",
                    digest=shards.content_hash,
                    source=source,
                    split=split,
                    num_rows=sum(entry.num_rows for entry in entries),
                    num_shards=len(entries),
                    num_bytes=sum(entry.num_bytes for entry in entries),
                )
            )
    return tuple(found)


def write_inputs(run: RunFolder, inputs: RunInputs) -> None:
    """Say what a run starts from."""
    run.write(INPUTS, asdict(inputs))


def read_inputs(run: RunFolder) -> RunInputs:
    """What a run starts from; nothing where nobody has said.

    Raises:
        DamagedError: the file is not what was written.
    """
    found: dict[str, Any] = run.read(INPUTS) or {}
    origin = found.get("origin")
    if origin is not None:
        origin = Origin(**{**origin, "metrics": tuple(origin["metrics"])})
    datasets = tuple(DatasetEntry(**entry) for entry in found.get("datasets", ()))
    return RunInputs(datasets=datasets, origin=origin)
