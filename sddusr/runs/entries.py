"""Contents of the JSON files of a run folder: what the run is, its state, its model."""

from dataclasses import dataclass, field
from typing import Literal

State = Literal["created", "running", "paused", "finished", "stopped", "failed"]
"""`paused` is saved, to be resumed; `stopped` was ended early by a scheduler."""

FINAL: tuple[State, ...] = ("finished", "stopped", "failed")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What a run is."""

    name: str
    key: str
    """Finds the run again wherever it is mirrored."""
    experiment: str
    created_ms: int
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)
    """Tags of a newly created MLflow run: who made it with which code."""
    tracking_uri: str = ""
    """Where the run was to be mirrored when it was started."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a run stands."""

    state: State = "created"
    reason: str = ""
    step: int = 0
    since_ms: int = 0


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A checkpoint to register as a version of a model."""

    name: str
    checkpoint: str
    tags: dict[str, str]
