"""Places that outlive the command and that every machine of the cluster sees.

A job of `ray job submit --working-dir` runs in a copy of the folder that Ray deletes afterwards, on
whichever node Ray chooses; a cluster's nodes share no disk unless somebody gave them one.
"""

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sddusr import storage

ANSWER_S = 90.0
"""How long a node may take to tell what it sees; starting its first process takes seconds."""


def in_throwaway_folder() -> bool:
    """Whether the working folder is Ray's copy of a job's `--working-dir`."""
    return bool(job_package())


def job_package() -> str:
    """URI of the job's uploaded `--working-dir`, whose name is a hash of it; empty in no job."""
    job_config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    return job_config.get("runtime_env", {}).get("working_dir") or ""


def home() -> Path:
    """Where results lie when nobody says where: the working folder, or in a job `~/sddusr`."""
    return Path.home() / "sddusr" if in_throwaway_folder() else Path.cwd()


def persistent_path(place: str, flag: str) -> str:
    """A place as an absolute path or URI.

    Raises:
        ValueError: it is relative to a folder that will be deleted.
    """
    is_relative = storage.is_local(place) and not os.path.isabs(os.path.expanduser(place))
    if is_relative and in_throwaway_folder():
        raise ValueError(
            f"{flag} is {place!r}, relative to the job's working folder, which Ray deletes; give "
            f"an absolute path or a URI such as s3://bucket/folder"
        )
    return storage.absolute(place)


def storage_folder(given: str | None) -> str:
    """Where runs lie: at the given place, or in `runs` below `home`."""
    return str(home() / "runs") if given is None else persistent_path(given, "--storage")


def check_is_named(given: str | None, flag: str, what: str) -> None:
    """A place of our own choice lies on one machine.

    Raises:
        ValueError: there are several, and no place is given.
    """
    num_nodes = len(_nodes())
    if given is None and num_nodes > 1:
        raise ValueError(
            f"the cluster has {num_nodes} nodes and no {flag} is given; give {what} that all of "
            f"them reach"
        )


def check_seen_by_all(*, files: Mapping[str, str], folders: Mapping[str, str]) -> None:
    """Every node sees these files, and what this process writes into these folders. URIs are taken
    on trust.

    Args:
        files: flag -> file that is there.
        folders: flag -> folder, which is made where it is missing.

    Raises:
        ValueError: which node does not see what.
    """
    nodes = _nodes()
    if len(nodes) < 2:
        return
    seen = {flag: file for flag, file in files.items() if storage.is_local(file)}
    marks = {
        flag: Path(folder, f".seen-{uuid.uuid4().hex}")
        for flag, folder in folders.items()
        if storage.is_local(folder)
    }
    try:
        for mark in marks.values():
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        _ask(nodes, seen | {flag: str(mark) for flag, mark in marks.items()})
    finally:
        for mark in marks.values():
            mark.unlink(missing_ok=True)


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _ask(nodes: list[dict[str, Any]], paths: dict[str, str]) -> None:
    asked = {
        node["NodeManagerAddress"]: _missing.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(paths)
        for node in nodes
    }
    for address, answer in asked.items():
        try:
            missing = ray.get(answer, timeout=ANSWER_S)
        except (RayError, GetTimeoutError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"node {address} cannot run this code ({reason:.200}); install the package on "
                f"every node, or submit with --working-dir"
            ) from error
        if missing:
            folder = os.path.dirname(paths[missing[0]])
            raise ValueError(
                f"node {address} does not see {folder} ({missing[0]}); give a folder on a shared "
                f"disk or a URI such as s3://bucket/folder"
            )


@ray.remote(num_cpus=0, max_retries=1)
def _missing(paths: dict[str, str]) -> list[str]:
    return [flag for flag, path in paths.items() if not os.path.exists(path)]
