"""The flags of a search."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from pipelines.tracking import links
from pipelines.tracking.background import END_WAIT_S
from sddusr.config import DEMO, Config
from tune.proposals import Algorithm


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Search for the config with the best full PSNR on held-out training pictures (split val)."""

    data: str | None = None
    """Folder or URI of shards from pipelines/preprocess.py --hold-out; without it, the pictures
    that ship with scikit-image and scikit-learn are preprocessed into a folder in STORAGE."""
    space: str = "tokens"
    """What varies: tokens, losses, mask, attention, all, or a .yaml or .py file of your own.
    A .py file runs as code of this process; use one only if you trust it."""
    search: Algorithm | None = None
    """How values are chosen: optuna learns from the trials before, random does not, grid takes
    all combinations; by default grid where these are 16 or fewer, else optuna."""
    trials: int | None = None
    """How many configs are tried; by default 16 (with --hours no limit), or all of a grid."""
    steps: int | None = None
    """Steps of each trial; by default the config's train.num-steps."""
    hours: float | None = None
    """Hours until running trials save and leave; --resume goes on with them, with as many hours."""
    scheduler: Literal["asha", "none"] | None = None
    """asha stops trials early that fall behind the others at a validation; by default asha, but
    none with several workers per trial."""
    asha_factor: float = 3.0
    """One of so many trials passes each rung of asha. The first rung is the first validation
    (train.validate-every), the next ones so many times as far each."""
    seed: int = 0
    """Seed of the proposals; a trial's own seed is train.seed, the same for all."""
    concurrent: int | None = None
    """Trials at a time; by default one for each GPU share, or without GPUs at most four."""
    workers_per_trial: int = 1
    """With 2 or more, each trial trains in so many workers of Ray Train."""
    cpus_per_trial: float | None = None
    """Processor cores of a trial (of each worker); by default an equal share of them all."""
    gpus_per_trial: float | None = None
    """GPUs of a trial, such as 0.5 (of each worker: 0 or 1); by default 1 where there are any."""
    resume: bool = False
    """Go on with this search where it was cut off; with nothing there, begin it."""
    retry_failed: bool = False
    """With --resume: also go on with trials that failed."""
    fresh: bool = False
    """Delete the earlier search of this name, checkpoints too, and search anew. A folder that is no
    search is never deleted."""
    max_failures: int = 2
    """How often a trial whose process dies is started again; what it raises itself ends it."""
    name: str | None = None
    """Search's name, that of its folder in --storage; by default preset, space and a hash of all
    that decides its result."""
    storage: str | None = None
    """Folder or URI that holds searches; on several machines, one that all of them reach. By
    default `runs`, in a job on a cluster of one machine `~/sddusr/runs`."""
    tracking_uri: str | None = None
    """MLflow; by default MLFLOW_TRACKING_URI, else sqlite:///mlflow.db."""
    experiment: str = links.EXPERIMENT
    """MLflow's experiment."""
    tracking_wait_s: float = END_WAIT_S
    """How long the end waits for an MLflow that is unreachable; the search's folder holds all."""
    register_model: str | None = None
    """Name under which the best trial's network is registered in MLflow; by default
    sddusr-PRESET, and the empty name registers none."""
    preset: Annotated[str, tyro.conf.Suppress] = "demo"
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=lambda: DEMO)
