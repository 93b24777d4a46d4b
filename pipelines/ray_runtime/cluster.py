"""The Ray cluster of a command: joined or started, and how its cores are shared."""

import logging
import math
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parents[2]
"""Holds pipelines/ and tune/, which no wheel does: workers find them by PYTHONPATH."""

UNLIMITED = 10**6
"""Processes on a node of which they take nothing."""

STARTUP_ERRORS = (Exception,)
"""What ray.init raises where a cluster cannot be started or joined: bare exceptions too."""


class Node(NamedTuple):
    """What a machine of the cluster has."""

    cpus: float
    gpus: float


def nodes() -> list[Node]:
    """The machines of the cluster that are alive."""
    import ray

    alive = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return [Node(resources.get("CPU", 0), resources.get("GPU", 0)) for resources in alive]


def count_slots(nodes: Sequence[Node], cpus: float, gpus: float) -> int:
    """How many processes of this size the nodes hold; each lies on one."""
    return sum(
        min(
            _times(node.cpus, cpus) if cpus else UNLIMITED,
            _times(node.gpus, gpus) if gpus else UNLIMITED,
        )
        for node in nodes
    )


def _times(whole: float, part: float) -> int:
    """How often the part goes into the whole; a third does three times."""
    return math.floor(whole / part + 1e-6)


def gpus_for_each(num_processes: int) -> float:
    """The largest equal share of a GPU, 1 or a whole fraction of it, that the nodes hold so often.

    A share that does not divide a GPU would leave processes waiting for ever: 12 of two thirds on 8
    GPUs are 8.
    """
    found = nodes()
    if not any(node.gpus for node in found):
        return 0.0
    for sharing in range(1, num_processes + 1):
        if count_slots(found, 1, 1 / sharing) >= num_processes:
            return 1 / sharing
    return 0.0


def cores_for_each(num_processes: int, flag: str, gpus: float = 0.0) -> int:
    """An equal share of the cluster's cores that a node can give to each process.

    Args:
        gpus: of each process, which the same node must have.

    Raises:
        ValueError: there is no room for that many; waiting would not help.
    """
    found = nodes()
    room = count_slots(found, 1, gpus)
    if not 1 <= num_processes <= room:
        total = sum(int(node.cpus) for node in found)
        beside = f" beside {gpus:g} GPU each" if gpus else ""
        raise ValueError(
            f"{flag} is {num_processes}, the cluster has {total} cores, room for {room} "
            f"processes{beside}; need 1 to that many"
        )
    most = max(int(node.cpus) for node in found)
    for cores in range(most, 1, -1):
        if count_slots(found, cores, gpus) >= num_processes:
            return cores
    return 1


def init_ray(num_cpus: int | None = None) -> None:
    """Join the cluster of the job or the shell (RAY_ADDRESS), else start one for this process.

    The dashboard stays on: a watcher of Ray Train's asks it whether the training is still alive,
    and takes the workers away where it hears nothing. Where the dashboard is, the watcher only
    guesses, which fails with two clusters on one machine; so they get the address explicitly.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if os.environ.get("RAY_ADDRESS"):
        use_token()
    import ray

    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        _join_cluster()
        return
    try:
        _start_cluster(num_cpus)
    except STARTUP_ERRORS as error:
        if "timed out" not in str(error):
            raise _explain_start(error) from error
        logging.getLogger(__name__).warning("Ray did not start in time; once more")
        ray.shutdown()
        try:
            _start_cluster(num_cpus)
        except STARTUP_ERRORS as again:
            raise _explain_start(again) from again
    _make_token_private()


def use_token() -> None:
    """Send the user's token to a cluster wherever there is one, as a cluster of Ray 2.59 or newer
    wants; RAY_AUTH_MODE=disabled sends none."""
    if "RAY_AUTH_MODE" not in os.environ and (
        os.environ.get("RAY_AUTH_TOKEN") or _token_file().is_file()
    ):
        os.environ["RAY_AUTH_MODE"] = "token"
        from ray._raylet import Config  # pyright: ignore[reportAttributeAccessIssue]

        Config.initialize("")  # Ray has read the variable before, when it was imported


def _token_file() -> Path:
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(given) if given else Path(os.path.expanduser("~"), ".ray", "auth_token")


def _make_token_private() -> None:
    """Ray writes its token so that all users of the machine can read it."""
    with suppress(OSError):
        if _token_file().stat().st_mode & 0o077:
            _token_file().chmod(0o600)


def _join_cluster() -> None:
    import ray

    address = os.environ["RAY_ADDRESS"]
    try:
        ray.init(log_to_driver=True)
    except STARTUP_ERRORS as error:
        has_token = os.environ.get("RAY_AUTH_MODE") == "token"
        about_token = "the token is not the cluster's" if has_token else "no token was found"
        raise ValueError(
            f"no Ray cluster can be joined at RAY_ADDRESS={address} ({_first_line(error)}). If it "
            f"runs: it may want its token ({about_token}): set RAY_AUTH_MODE=token and "
            f"RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH; or unset RAY_ADDRESS to start one here"
        ) from error


def _start_cluster(num_cpus: int | None) -> None:
    import ray

    port = _free_port()
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    with _environment(RAY_API_SERVER_ADDRESS=f"http://127.0.0.1:{port}", PYTHONPATH=path):
        ray.init(
            address="local",
            num_cpus=num_cpus or _cores_given(),
            dashboard_port=port,
            object_store_memory=512 * 2**20,
            logging_level=logging.WARNING,
        )


def _cores_given() -> int | None:
    """Fewer cores than the machine has, where a scheduler or `taskset` gave this process fewer.

    Ray counts the machine's, or those of a container; two threads on one core are five times slower
    than one, since each waits for the other without giving way.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    given = len(os.sched_getaffinity(0))
    return given if given < (os.cpu_count() or 1) else None


def _explain_start(error: Exception) -> ValueError:
    """What keeps Ray from starting here, and the remedy."""
    message = _first_line(error)
    if "AF_UNIX" in str(error):
        remedy = (
            "its temporary folder's name is too long: set RAY_TMPDIR=/tmp, or another short path"
        )
    elif isinstance(error, OSError):
        remedy = (
            "it writes below the home folder: set HOME to a folder that can be written, or "
            "RAY_AUTH_TOKEN_PATH to a file of yours (RAY_TMPDIR for its logs)"
        )
    else:
        remedy = "the machine may be too busy or out of memory: try again when there is less load"
    return ValueError(f"Ray cannot be started ({message}); {remedy}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


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
