"""The flags of training."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from pipelines.ray_runtime.capacity import WorkerOptions
from pipelines.tracking import links
from pipelines.tracking.background import END_WAIT_S
from sddusr.config import DEMO, Config, to_dict


@dataclass(frozen=True, kw_only=True)
class TrainOptions(WorkerOptions):
    """Train, or go on with a run: the same command resumes from its newest good checkpoint."""

    data: str | None = None
    """Folder or URI of shards from pipelines/preprocess.py; without it, the pictures that ship
    with scikit-image and scikit-learn are preprocessed into a folder in STORAGE."""
    name: str | None = None
    """Run's name, that of its folder in --storage; by default the preset and a hash of config and
    data."""
    storage: str | None = None
    """Folder or URI that holds the runs; on several machines, one that all of them reach. By
    default `runs`, in a job on a cluster of one machine `~/sddusr/runs`."""
    fresh: bool = False
    """Delete the earlier run of this name, checkpoints too, and start again. A folder that is no
    run is never deleted."""
    max_failures: int = 3
    """How often workers that die are started again before the run fails; -1: always. A node that
    is taken after a notice does not count."""
    lost_nodes_s: float = 1800.0
    """How long a run that lost nodes waits for new ones before it fails; the same command then goes
    on with it later."""
    rank_timeout_s: int = 1800
    """How long a worker waits for the others in one exchange of gradients before it gives up, and
    all start again from the newest checkpoint; the log says before which rank they wait for."""
    tracking_uri: str | None = None
    """MLflow; by default MLFLOW_TRACKING_URI, else sqlite:///mlflow.db, in a job below
    `~/sddusr`."""
    experiment: str = links.EXPERIMENT
    """MLflow's experiment."""
    parent_run: str | None = None
    """Id of an MLflow run that this one is a part of."""
    tracking_wait_s: float = END_WAIT_S
    """How long the end of the run waits for an MLflow that is unreachable; the rest stays in the
    run's folder, and the log names the command that uploads it."""
    register_model: str | None = None
    """Name under which the best checkpoint is registered in MLflow; by default sddusr-PRESET, and
    the empty name registers none."""
    preset: Annotated[str, tyro.conf.Suppress] = "demo"
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=lambda: DEMO)

    def run_name(self, data_hash: str) -> str:
        """`name`, or the preset and a hash of all that decides the result."""
        described = json.dumps([to_dict(self.config), data_hash], sort_keys=True)
        fingerprint = hashlib.sha256(described.encode()).hexdigest()[:8]
        return self.name or f"{self.preset}-{fingerprint}"

    @property
    def model_name(self) -> str:
        """Name of the registered model; empty for none."""
        return f"sddusr-{self.preset}" if self.register_model is None else self.register_model
