"""What every command shares: typed flags, one clear line for bad input, exit codes, log lines."""

import io
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any, NoReturn, TypeVar

import tyro

from pipelines.options import OPTIONALS, one_line

T = TypeVar("T")

USER_ERRORS = (ValueError, OSError)
"""What bad input, disks and networks raise; anything else is a bug and keeps its traceback."""


def run(
    main: Callable[[T], int | None],
    options: Any,
    *,
    args: Sequence[str] | None = None,
    description: str | None = None,
) -> None:
    """Parse the command line into `options`, call `main`, and exit.

    Exit codes: 0, `main`'s own, or 2 with one line on stderr for bad input.

    Args:
        description: what `--help` begins with; by default the docstring of `options`.
    """
    log_lines()
    parsed = parse(options, args, description)
    try:
        sys.exit(main(parsed) or 0)
    except USER_ERRORS as error:
        if os.environ.get("SDDUSR_TRACEBACK"):
            raise
        refuse(str(error))


def refuse(problem: str) -> NoReturn:
    """End the process over bad input."""
    print(f"error: {problem}", file=sys.stderr)
    sys.exit(2)


def parse(options: Any, args: Sequence[str] | None = None, description: str | None = None) -> Any:
    """The command line as `options`; what is wrong with it ends the process, as `run` says."""
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            return tyro.cli(options, args=args, description=description, registry=OPTIONALS)
    except SystemExit as end:
        if end.code:
            print(f"error: {one_line(told.getvalue())}", file=sys.stderr)
        raise


def log_lines() -> None:
    """Log to stderr, each line with its time; Ray passes an actor's on to the command."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


def parse_bytes(text: str, flag: str) -> int:
    """Bytes of a size as people write it: 4GB, 512 MiB, 1.5G; units of 1000, with an i of 1024.

    Raises:
        ValueError: no size, or nothing at all.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(I?)B?", text.strip().upper())
    size = 0
    if match and (match[2] or not match[3]):
        base = 1024 if match[3] else 1000
        size = round(float(match[1]) * base ** " KMGT".index(match[2] or " "))
    if size < 1:
        raise ValueError(f"{flag} is {text!r}, need a size such as 4GB, 512MB or 2GiB")
    return size


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
    with _environment(RAY_API_SERVER_ADDRESS=f"http://127.0.0.1:{port}"):
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
