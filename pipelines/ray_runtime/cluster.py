"""The Ray cluster of a command: joined or started, and how its cores are shared."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
"""Holds pipelines/ and tune/, which no wheel does: workers find them by PYTHONPATH."""


def cores_for_each(num_processes: int, flag: str) -> int:
    """An equal share of the cluster's cores that a node can give to each process.

    Raises:
        ValueError: there is not a core for each; waiting would not help.
    """
    import ray

    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    if not 1 <= num_processes <= sum(nodes):
        raise ValueError(
            f"{flag} is {num_processes}, the cluster has {sum(nodes)} cores; need 1 to that many"
        )
    for cores in range(sum(nodes) // num_processes, 1, -1):
        if sum(node // cores for node in nodes) >= num_processes:
            return cores
    return 1


def init_ray(num_cpus: int | None = None) -> None:
    """Join the cluster of the job or the shell (RAY_ADDRESS), else start one for this process.

    The dashboard stays on: a watcher of Ray Train's asks it whether the training is still alive,
    and takes the workers away where it hears nothing. Where the dashboard is, the watcher only
    guesses, which fails with two clusters on one machine; so the cluster's processes are told.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=True)
        return
    port = _free_port()
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    with _environment(RAY_API_SERVER_ADDRESS=f"http://127.0.0.1:{port}", PYTHONPATH=path):
        ray.init(
            address="local",
            num_cpus=num_cpus,
            dashboard_port=port,
            object_store_memory=512 * 2**20,
            logging_level=logging.WARNING,
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Variables for the processes that are started meanwhile, and theirs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
