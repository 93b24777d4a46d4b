"""How many workers train, and whether the cluster has room for them."""

import logging
import re
import time
from dataclasses import dataclass

from ray.train import ScalingConfig

from pipelines.ray_runtime import cluster

POLL_S = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What each worker gets."""

    workers: str = "1"
    """Processes that share each global batch (train.batch-size is the global one): a number, or
    the fewest and the most, such as 1:4, to go on with fewer when nodes are lost and with more when
    they come. The order of samples does not depend on it."""
    gpu: bool | None = None
    """A GPU for each worker; by default where the cluster has one for each."""
    cpus_per_worker: int | None = None
    """Processor cores of each worker; by default an equal share of them all."""
    wait_for_nodes_s: float = 0.0
    """How long the start asks the autoscaler for nodes and waits for them; 0: a cluster without
    room for the fewest workers is refused at once."""
    resize_every_s: float = 60.0
    """Least time between two looks at whether more workers would fit now; each growth redoes the
    steps since the last checkpoint."""

    def __post_init__(self) -> None:
        _ = self.counts
        if self.wait_for_nodes_s < 0 or self.resize_every_s <= 0:
            raise ValueError(
                f"--wait-for-nodes-s is {self.wait_for_nodes_s} and --resize-every-s "
                f"{self.resize_every_s}, need 0 or more and more than 0"
            )

    @property
    def counts(self) -> tuple[int, int]:
        """The fewest and the most."""
        match = re.fullmatch(r"([1-9][0-9]*)(?::([1-9][0-9]*))?", self.workers.strip())
        fewest = int(match[1]) if match else 0
        most = int(match[2] or match[1]) if match else 0
        if not 1 <= fewest <= most:
            raise ValueError(
                f"--workers is {self.workers!r}, need a number such as 4, or the fewest and the "
                f"most such as 1:4"
            )
        return fewest, most


def scaling(options: WorkerOptions, batch_size: int) -> ScalingConfig:
    """Workers that the cluster can hold.

    Raises:
        ValueError: it cannot; waiting longer would not help.
    """
    fewest, most = options.counts
    if most > batch_size:
        raise ValueError(
            f"--workers is {options.workers}, more than --train.batch-size {batch_size}; lower it, "
            f"or raise the batch size"
        )
    _wait_for_room(options, fewest)
    num_gpus = sum(int(node.gpus) for node in cluster.nodes())
    gpu = num_gpus >= fewest if options.gpu is None else options.gpu
    if gpu and fewest > num_gpus:
        raise ValueError(
            f"--workers is {options.workers}, the cluster has {num_gpus} GPUs; lower it, or pass "
            f"--gpu False"
        )
    if options.gpu is None and 0 < num_gpus < fewest:
        log.warning("%d GPUs for %d workers: training on processors", num_gpus, fewest)
    cpus = options.cpus_per_worker or _equal_share(fewest, most, gpu)
    if _room(cpus, gpu) < fewest:
        raise ValueError(
            f"no room for {fewest} workers of {cpus} cores{' and a GPU' * gpu}; lower --workers or "
            f"--cpus-per-worker, start more nodes, or wait for an autoscaler's with "
            f"--wait-for-nodes-s"
        )
    return ScalingConfig(
        num_workers=fewest if fewest == most else (fewest, most),
        use_gpu=gpu,
        resources_per_worker={"CPU": cpus, "GPU": 1} if gpu else {"CPU": cpus},
        elastic_resize_monitor_interval_s=options.resize_every_s,
    )


def _equal_share(fewest: int, most: int, gpu: bool) -> int:
    """Cores of each worker if as many run as the cluster has room for now."""
    num = max(fewest, min(most, _room(1, gpu)))
    if gpu and _room(1, gpu) < num:
        return 1  # which the caller refuses
    return cluster.cores_for_each(num, "--workers", float(gpu))


def _room(cpus: int, gpu: bool) -> int:
    """Workers that fit, on all nodes together."""
    return cluster.count_slots(cluster.nodes(), cpus, float(gpu))


def _wait_for_room(options: WorkerOptions, num: int) -> None:
    """Ask the autoscaler for room for so many, until it is there or the time is over."""
    if not options.wait_for_nodes_s:
        return
    from ray.autoscaler.sdk import request_resources

    cpus, gpu = options.cpus_per_worker or 1, bool(options.gpu)
    deadline = time.monotonic() + options.wait_for_nodes_s
    request_resources(bundles=[{"CPU": cpus, **({"GPU": 1} if gpu else {})}] * num)
    try:
        while _room(cpus, gpu) < num and time.monotonic() < deadline:
            time.sleep(POLL_S)
    finally:
        request_resources(bundles=[])
