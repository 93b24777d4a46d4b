"""A training run as Ray's own `Result`, read from the run's folder.

Checkpoints are reported to Ray in place (`CheckpointUploadMode.NO_UPLOAD`), but its own list
names those, too, that were dropped since, and is lost with a fit that is cut off.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from ray.train import Checkpoint, Result

from sddusr import storage
from sddusr.checkpoint import FOLDER, HASHES
from sddusr.runs.run_folder import RunFolder


def run_result(folder: str) -> Result:
    """What a run reported and kept.

    Returns:
        `metrics` and `checkpoint` of the newest checkpoint, `best_checkpoints` as
        (checkpoint, metrics of its step), oldest first, `metrics_dataframe` with a row for each
        step that was logged. A checkpoint's `to_directory` is a folder that `sddusr.load` takes.
    """
    steps = metrics_by_step(RunFolder(folder))
    kept = [
        (checkpoint_at(place), dict(steps.get(step, {"step": step})))
        for step, place in kept_checkpoints(folder).items()
    ]
    system, path = storage.resolve(folder)
    return Result(
        metrics=kept[-1][1] if kept else None,
        checkpoint=kept[-1][0] if kept else None,
        error=None,
        path=path,
        best_checkpoints=kept,
        metrics_dataframe=pd.DataFrame(list(steps.values())) if steps else None,
        _storage_filesystem=system,
    )


def metrics_by_step(run: RunFolder) -> dict[int, dict[str, Any]]:
    """Step -> all that was logged of it, by step."""
    steps: dict[int, dict[str, Any]] = {}
    for row in run.rows():
        steps.setdefault(row["step"], {}).update(row)
    return steps


def kept_checkpoints(folder: str) -> Mapping[int, str]:
    """Step -> place of each whole checkpoint of a run, oldest first."""
    root = storage.join(folder, "checkpoints")
    if not storage.exists(root):
        return {}
    return {
        int(match[1]): place
        for name, place in sorted(storage.list_folders(root).items())
        if (match := FOLDER.fullmatch(name)) and storage.exists(storage.join(place, HASHES))
    }


def checkpoint_at(place: str) -> Checkpoint:
    """Ray's view of a checkpoint's folder, local or in a bucket; nothing is copied."""
    system, path = storage.resolve(place)
    return Checkpoint(path, system)
