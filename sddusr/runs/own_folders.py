"""Names and folders of runs: a name never leaves its storage, and only a run of ours is deleted."""

import re
from collections.abc import Mapping

from pyarrow import fs

from sddusr import local_files, storage
from sddusr.checkpoint import FOLDER, HASHES
from sddusr.runs import run_folder

MAX_NAME_BYTES = 120
"""File systems allow 255 bytes; what is written beside a folder adds to its name."""

PLAIN_NAME = re.compile(r"\w[\w .,+=@()-]*(?<! )")

SEARCH = "search.json"

MARKS: Mapping[str, frozenset[str]] = {
    run_folder.CONFIG: frozenset({"name", "key", "experiment"}),
    "mlflow.json": frozenset({"tracking_uri", "key"}),
    SEARCH: frozenset({"config", "space", "search"}),
}
"""File of a run's folder -> keys of its JSON object. One such file marks a folder as a run."""

OF_A_SEARCH = ("trials", "results", "done.json")

EARLIER = ("metrics.jsonl", "tracking")
"""What earlier versions wrote."""

OF_RAY = (
    "ray",
    "checkpoint_manager_snapshot.json",
    ".validate_storage_marker",
    "hang_detector",
)
"""What Ray Train and Tune write beside it; nothing is read back."""

CONTENT = frozenset({*MARKS, *OF_A_SEARCH, *run_folder.NAMES, "checkpoints", *OF_RAY, *EARLIER})
"""All that a run or a search writes right below its folder."""


def check_run_name(name: str) -> None:
    """A run's name is one component of a path.

    Raises:
        ValueError: it could name another folder, or is no name that every file system takes.
    """
    if PLAIN_NAME.fullmatch(name) and len(name.encode()) <= MAX_NAME_BYTES:
        return
    raise ValueError(
        f"--name is {name!r}, need a plain name of up to {MAX_NAME_BYTES} bytes: letters, digits, "
        f"spaces and .,+=@()-_, a letter, digit or _ first; --storage says in which folder"
    )


def plain_name(text: str, max_chars: int = 40) -> str:
    """Part of a run's name, made of any text."""
    return re.sub(r"[^\w.-]+", "-", text)[:max_chars].strip(".-")


def check_run_folder(folder: str, *, is_search: bool = False) -> None:
    """A run begins or goes on in a folder that is absent, empty or a run already.

    Args:
        is_search: whether a search goes on there; a search and a training run share no folder.

    Raises:
        ValueError: the folder holds something else.
    """
    names = _names(folder)
    if not names:
        return
    if not _is_run(folder, names):
        raise ValueError(
            f"{folder}: holds {names[0]!r} and no run of ours; take another --name or --storage"
        )
    if (SEARCH in names) != is_search:
        is_there, wanted = ("a training run", "a search")[:: 1 if is_search else -1]
        raise ValueError(f"{folder}: holds {is_there}, not {wanted}; take another --name")


def delete_run(folder: str, *, is_search: bool = False) -> None:
    """Delete a run's folder, its checkpoints too, where there is one.

    Raises:
        ValueError: the folder is no run of ours, or holds what no run writes; nothing is deleted.
    """
    check_run_folder(folder, is_search=is_search)
    names = _names(folder)
    if foreign := [name for name in names if name not in CONTENT]:
        raise ValueError(
            f"{folder}: --fresh would delete {foreign[0]!r}, which no run wrote; move it elsewhere "
            f"or take another --name"
        )
    if names:
        storage.remove_folder(folder)


def _names(folder: str) -> list[str]:
    """All names right below a folder, without what a killed write left; none where it is absent.

    Raises:
        ValueError: it is a file.
    """
    kind = storage.info(folder).type
    if kind == fs.FileType.NotFound:
        return []
    if kind != fs.FileType.Directory:
        raise ValueError(f"{folder}: is a file, need a folder; take another --name or --storage")
    return [name for name in storage.list_names(folder) if not local_files.is_temporary(name)]


def _is_run(folder: str, names: list[str]) -> bool:
    """Whether the folder has a run's mark, or checkpoints of ours."""
    for name in MARKS.keys() & set(names):
        try:
            marker = storage.read_json(storage.join(folder, name))
        except (OSError, ValueError):
            continue
        if isinstance(marker, dict) and MARKS[name] <= marker.keys():
            return True
    return "checkpoints" in names and _has_checkpoint(storage.join(folder, "checkpoints"))


def _has_checkpoint(folder: str) -> bool:
    if storage.info(folder).type != fs.FileType.Directory:
        return False
    steps = [
        place for name, place in storage.list_folders(folder).items() if FOLDER.fullmatch(name)
    ]
    return any(storage.exists(storage.join(place, HASHES)) for place in steps)
