"""A run is a folder, local or a URI: all that a training run, a trial or an evaluation reports.

config.json         what the run is: name, key, experiment, parameters, tags
status.json         its state, the reason for it, the last step
metrics/STEP.jsonl  the rows of one step; a resumed run overwrites the steps that it does again
images/STEP/KEY.png
artifacts/          files to keep; links.json names files to keep that lie elsewhere
inputs.json         its data; of an evaluation, the checkpoint that it scores
model.json          the checkpoint to register as a model
mlflow.json         the MLflow run that mirrors the folder
checkpoints/        of training
trials/NUMBER/      of a search, which is a folder of such folders; proposal.json holds its values

Every file is written atomically by one process, and carries a checksum. A write that fails raises:
what was reported is on disk, or the run ends.
"""

import io
import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pyarrow import fs

from sddusr import storage
from sddusr.runs.checked_json import (
    DamagedError,
    Row,
    read_object,
    read_rows,
    write_object,
    write_rows,
)
from sddusr.runs.entries import FINAL, ModelEntry, RunConfig, State, Status
from sddusr.secrets import mask

CONFIG, STATUS, LINKS, INPUTS, MODEL, MLFLOW = (
    "config.json",
    "status.json",
    "links.json",
    "inputs.json",
    "model.json",
    "mlflow.json",
)
LOCK = ".mirror.lock"
"""In a local run folder: held by the one process that mirrors it."""

METRICS, IMAGES, ARTIFACTS, TRIALS = "metrics", "images", "artifacts", "trials"

NAMES = (CONFIG, STATUS, LINKS, INPUTS, MODEL, MLFLOW, LOCK, METRICS, IMAGES, ARTIFACTS, TRIALS)
"""All that a run writes right below its folder, besides its checkpoints."""

_EARLIER = "joins"
"""A key that earlier versions wrote into config.json."""

log = logging.getLogger(__name__)


class Version(NamedTuple):
    """Tells whether a file changed."""

    size: int
    time_ns: int


class RunFolder:
    """One run's folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._step, self._rows = -1, []

    def describe(
        self,
        *,
        name: str,
        experiment: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        source: Mapping[str, str] | None = None,
        tracking_uri: str = "",
    ) -> RunConfig:
        """Say what the run is, without the credentials of URIs in parameters and tags. A run that
        goes on in this folder keeps its key.

        Raises:
            DamagedError: the folder's config.json cannot be read.
        """
        earlier = self.config()
        config = RunConfig(
            name=name,
            key=earlier.key if earlier else self._mirrored_key() or uuid.uuid4().hex,
            experiment=experiment,
            created_ms=earlier.created_ms if earlier else _now_ms(),
            params=_masked(params),
            tags={**(earlier.tags if earlier else {}), **_masked(tags)},
            source=_masked(source or {}),
            tracking_uri=tracking_uri,
        )
        self.write(CONFIG, asdict(config))
        return config

    def config(self) -> RunConfig | None:
        """What the run is; None where nobody has said yet."""
        found = self.read(CONFIG)
        if found is None:
            return None
        return RunConfig(**{key: value for key, value in found.items() if key != _EARLIER})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Add tags, or change them.

        Raises:
            FileNotFoundError: nobody has said what the run is.
        """
        config = self.config()
        if config is None:
            raise FileNotFoundError(f"{self.place(CONFIG)}: no such file; give a run's folder")
        self.write(CONFIG, asdict(replace(config, tags={**config.tags, **_masked(tags)})))

    def _mirrored_key(self) -> str:
        """The key of a run that was tracked before run folders had a config."""
        place = self.place(MLFLOW)
        if not storage.exists(place):
            return ""
        found = storage.read_json(place)
        return str(found.get("key", "")) if isinstance(found, dict) else ""

    def set_state(self, state: State, reason: str = "", step: int = 0) -> None:
        status = Status(state=state, reason=mask(reason), step=step, since_ms=_now_ms())
        self.write(STATUS, asdict(status))

    def end(self, state: State, reason: str = "", step: int = 0) -> None:
        """Set a final state; the first one stays."""
        if self.status().state not in FINAL:
            self.set_state(state, reason, step)

    def status(self) -> Status:
        """Where the run stands."""
        return Status(**(self.read(STATUS) or {}))

    def log_metrics(self, step: int, metrics: Mapping[str, float | int]) -> None:
        """Add a row to a step. The first row replaces what an earlier start wrote of that step."""
        if step != self._step:
            self._step, self._rows = step, []
        row = {"step": step, "time_ms": _now_ms()}
        self._rows.append(row | {key: float(value) for key, value in metrics.items()})
        write_rows(self.segment_place(step), self._rows)

    def add_metrics(self, step: int, metrics: Mapping[str, float | int]) -> None:
        """Add a row to a step that another process wrote."""
        place = self.segment_place(step)
        self._step, self._rows = step, read_rows(place) if storage.exists(place) else []
        self.log_metrics(step, metrics)

    def log_image(self, step: int, key: str, image: np.ndarray) -> None:
        """Keep an 8-bit image of a step; `key` may hold slashes."""
        content = io.BytesIO()
        Image.fromarray(image).save(content, "PNG", compress_level=1)
        name = f"{key.replace('/', '~')}.png"
        storage.write_atomic(self.place(IMAGES, f"{step:010d}", name), content.getvalue())

    def add_artifact(self, path: str | Path, folder: str) -> None:
        """Keep a copy of a local file below `artifacts/folder`."""
        place = self.place(ARTIFACTS, folder, Path(path).name)
        storage.write_atomic(place, Path(path).read_bytes())

    def write_artifact(self, name: str, content: bytes) -> None:
        """Keep a file of this content at `artifacts/name`."""
        storage.write_atomic(self.place(ARTIFACTS, name), content)

    def link_artifacts(self, links: Mapping[str, str]) -> None:
        """Name files or folders to keep that lie elsewhere.

        Args:
            links: name among the run's artifacts -> path or URI.
        """
        self.write(LINKS, {"links": dict(links)})

    def register_model(self, name: str, checkpoint: str, tags: Mapping[str, str]) -> None:
        """Ask for a checkpoint to become a version of a registered model."""
        entry = ModelEntry(name=name, checkpoint=checkpoint, tags=_masked(tags))
        self.write(MODEL, asdict(entry))

    def segments(self) -> dict[int, Version]:
        """Step -> version of its rows, by step."""
        found = {}
        for name, version in self.files(METRICS).items():
            stem, _, ending = name.partition(".")
            if ending == "jsonl" and stem.isdigit():
                found[int(stem)] = version
        return dict(sorted(found.items()))

    def segment_place(self, step: int) -> str:
        return self.place(METRICS, f"{step:010d}.jsonl")

    def read_segment(self, step: int) -> list[Row]:
        """The rows of a step.

        Raises:
            DamagedError: they are not what was written.
        """
        return read_rows(self.segment_place(step))

    def rows(self) -> Iterator[Row]:
        """All rows by step; the log names what is damaged."""
        for step in self.segments():
            try:
                yield from self.read_segment(step)
            except DamagedError as error:
                log.warning("Skipping metrics: %s", error)

    def links(self) -> dict[str, str]:
        return (self.read(LINKS) or {}).get("links", {})

    def model(self) -> ModelEntry | None:
        found = self.read(MODEL)
        return None if found is None else ModelEntry(**found)

    def trials(self) -> list["RunFolder"]:
        """The runs of a search."""
        root = self.place(TRIALS)
        if not storage.exists(root):
            return []
        return [RunFolder(place) for place in storage.list_folders(root).values()]

    def place(self, *names: str) -> str:
        return storage.join(self.folder, *names)

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON object of the folder; None where there is none.

        Raises:
            DamagedError: it is not what was written.
        """
        place = self.place(name)
        return read_object(place) if storage.exists(place) else None

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON object of the folder, such as a trial's proposal."""
        write_object(self.place(name), content)

    def version(self, name: str) -> Version | None:
        """The version of a file of the folder; None where there is none."""
        info = storage.info(self.place(name))
        return None if info.type != fs.FileType.File else _version(info)

    def files(self, folder: str) -> dict[str, Version]:
        """Path below a folder of the run -> version, for all files in it."""
        system, path = storage.resolve(self.place(folder))
        selector = fs.FileSelector(path, allow_not_found=True, recursive=True)
        found = {
            info.path.removeprefix(path).lstrip("/"): _version(info)
            for info in system.get_file_info(selector)
            if info.type == fs.FileType.File and not info.base_name.startswith(".")
        }
        return dict(sorted(found.items()))


def _masked(entries: Mapping[str, Any]) -> dict[str, str]:
    return {key: mask(str(value)) for key, value in entries.items()}


def _version(info: fs.FileInfo) -> Version:
    return Version(info.size or 0, info.mtime_ns or 0)


def _now_ms() -> int:
    return int(time.time() * 1000)
