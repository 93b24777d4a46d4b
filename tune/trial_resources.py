"""Which part of the cluster a trial gets, and how many run at a time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import ray
from ray.train import ScalingConfig

from pipelines.ray_runtime import cluster
from pipelines.ray_runtime.capacity import WorkerOptions, scaling
from pipelines.ray_runtime.cluster import Node, count_slots
from sddusr.config import Config
from tune.options import SearchOptions

MAX_BY_DEFAULT = 4
"""Trials at a time without GPUs: the more start at once, the less each proposal knows."""


FREE_WAIT_S = 30.0
"""How long a search waits for a job that is just ending to give back what it held."""


@dataclass(frozen=True)
class Share:
    """What each trial gets, or each of its workers."""

    concurrent: int
    """Trials at a time."""
    cpus: float
    gpus: float

    @property
    def resources(self) -> dict[str, float]:
        """As Ray wants them."""
        return {"CPU": self.cpus, "GPU": self.gpus} if self.gpus else {"CPU": self.cpus}


def plan(
    nodes: Sequence[Node],
    *,
    workers: int,
    concurrent: int | None,
    cpus: float | None,
    gpus: float | None,
) -> Share:
    """The share of each trial; what is None is chosen: all GPUs are used, or at most four trials
    share the cores.

    Args:
        workers: of each trial; the share is then each worker's.

    Raises:
        ValueError: no trial would ever fit; waiting would not help.
    """
    if workers < 1 or (concurrent is not None and concurrent < 1):
        raise ValueError(
            f"--workers-per-trial is {workers} and --concurrent {concurrent}, need 1 or more"
        )
    if (cpus is not None and cpus <= 0) or (gpus is not None and gpus < 0):
        raise ValueError(
            f"--cpus-per-trial is {cpus} and --gpus-per-trial {gpus}, need more than 0 cores and "
            f"no less than 0 GPUs"
        )
    if gpus is None:
        gpus = 1.0 if sum(int(node.gpus) for node in nodes) >= workers else 0.0
    most = count_slots(nodes, 0.0, gpus) // workers if gpus else MAX_BY_DEFAULT
    total = int(sum(node.cpus for node in nodes))
    trials = concurrent or max(1, min(most, total // workers))
    cpus = cpus or _equal_share(nodes, trials * workers, gpus)
    fitting = count_slots(nodes, cpus, gpus) // workers
    if fitting < (concurrent or 1):
        raise ValueError(
            f"{trials} trial(s) at a time of {workers} worker(s) with {cpus:g} cores and {gpus:g} "
            f"GPUs each do not fit the cluster, which has "
            f"{', '.join(f'{node.cpus:g} cores and {node.gpus:g} GPUs' for node in nodes)}; lower "
            f"--concurrent, --workers-per-trial, --cpus-per-trial or --gpus-per-trial"
        )
    return Share(min(trials, fitting), cpus, gpus)


def _equal_share(nodes: Sequence[Node], num: int, gpus: float) -> int:
    """The most cores that each of `num` processes can have; at least one."""
    total = int(sum(node.cpus for node in nodes))
    for cpus in range(total // num, 1, -1):
        if count_slots(nodes, cpus, gpus) >= num:
            return cpus
    return 1


def share_of_cluster(options: SearchOptions, config: Config) -> tuple[Share, ScalingConfig | None]:
    """What each trial gets, and its workers where there are several.

    Raises:
        ValueError: the cluster has no room for it, or not now.
    """
    nodes = cluster.nodes()
    workers = options.workers_per_trial
    if workers > 1 and options.gpus_per_trial not in (None, 0, 1):
        raise ValueError(
            f"--gpus-per-trial is {options.gpus_per_trial:g}; each of several workers needs 0 or 1"
        )
    share = plan(
        nodes,
        workers=workers,
        concurrent=options.concurrent,
        cpus=options.cpus_per_trial,
        gpus=options.gpus_per_trial,
    )
    _check_free(share, workers)
    if workers == 1:
        return share, None
    asked = WorkerOptions(
        workers=str(workers), cpus_per_worker=max(1, int(share.cpus)), gpu=share.gpus > 0
    )
    return share, scaling(asked, config.train.batch_size)


def _check_free(share: Share, workers: int) -> None:
    """A trial that waits for what a dead job holds would wait for ever."""
    wanted = {kind: workers * each for kind, each in share.resources.items()}
    deadline = time.monotonic() + FREE_WAIT_S
    while lacking := [kind for kind in wanted if _free(kind) + 1e-6 < wanted[kind]]:
        if time.monotonic() >= deadline:
            kind = lacking[0]
            raise ValueError(
                f"a trial needs {wanted[kind]:g} {kind}, {_free(kind):g} are free now; wait for "
                f"other jobs, or remove what dead ones left behind (ray list placement-groups), "
                f"or give the search a cluster of its own"
            )
        time.sleep(0.5)


def _free(kind: str) -> float:
    return ray.available_resources().get(kind, 0.0)
