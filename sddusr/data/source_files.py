"""The files of a dataset's triplets: what a source is, and how files are matched by stem."""

import functools
import logging
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sddusr import storage
from sddusr.data.manifest import SPLITS
from sddusr.geometry.box import Box
from sddusr.imaging.images import EXTENSIONS

log = logging.getLogger(__name__)

BoxRule = Literal["whole", "center", "half", "registered"]
"""`whole`: Ref must have HR's size. `center`: Ref, of whatever size, lies in HR's middle.
`half`: Ref has HR's size, and its middle half a side is kept. `registered`: Ref is a tele picture
that has to be found in HR, see `pairing.prepare_pair`."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One triplet's files."""

    id: str
    scene: str
    """What must not be in two splits."""
    split: str
    hr: str
    lr: str | None = None
    """None: LR is made of HR; see `degradation`."""
    ref: str | None = None
    """None: Ref is made of HR too, by `sample_images.degrade`."""
    box: Box | BoxRule
    halved: bool = False
    """HR and Ref have four times LR's pixels a side, and are halved when they are read."""


class Found(NamedTuple):
    sources: list[Source]
    """Sorted by split and id."""
    orphans: dict[str, str]
    """Id -> why it is no full triplet."""


_FIELDS = {"wide": "hr", "tele": "ref"}
"""What users call the members that a source names by their part in training."""


_LIKE_A_SPLIT = re.compile("train|val|test|dev|eval", re.IGNORECASE)
"""How the names of splits begin, those that other people give them too."""


class Top(NamedTuple):
    """The folder of a split."""

    split: str
    prefix: str
    """Of the split's ids."""
    place: str


def split_folders(root: str) -> list[Top]:
    """A folder for each split there is; without any, all is `train`.

    Raises:
        ValueError: two folders of a split, such as Train and train.
    """
    warn_of_other_splits(root, SPLITS)
    names = {name.lower() for name in storage.list_folders(root)}
    found = [Top(split, f"{split}-", folder_of(root, split)) for split in SPLITS if split in names]
    return found or [Top("train", "", root)]


def warn_of_other_splits(root: str, splits: tuple[str, ...]) -> None:
    """Name the folders that look like splits and are not read, such as `validation`."""
    names = [
        name
        for name in sorted(storage.list_folders(root))
        if _LIKE_A_SPLIT.match(name) and name.lower() not in splits
    ]
    if names:
        known = ", ".join(splits)
        log.warning("%s: not read: %s; splits are called %s", root, ", ".join(names), known)


def joined(*found: Found) -> Found:
    sources = [source for part in found for source in part.sources]
    return Found(sources, {id: why for part in found for id, why in part.orphans.items()})


def registered(top: Top, wide: list[str], tele: list[str]) -> Found:
    """Wide and tele pictures, the folders of each one inside the other below a split's."""
    wide_folder, tele_folder = (
        functools.reduce(folder_of, path, top.place) for path in (wide, tele)
    )
    members = {"wide": pictures_by_stem(wide_folder), "tele": pictures_by_stem(tele_folder)}
    return pair(members, top, "registered")


def pair(
    members: Mapping[str, Mapping[str, str]], top: Top, boxes: Mapping[str, Box] | BoxRule
) -> Found:
    sources, orphans = [], {}
    for stem in sorted(set().union(*members.values())):
        id = top.prefix + stem
        box = boxes if isinstance(boxes, str) else boxes.get(stem)
        if problem := _name_problem(stem):
            orphans[id] = f"{id}: {problem}"
        elif absent := [member for member, files in members.items() if stem not in files]:
            orphans[id] = f"{id}: no {' and no '.join(absent)} picture of that stem"
        elif box is None:
            orphans[id] = f"{id}: no centre box in the coordinates file"
        else:
            files: dict[str, Any] = {
                _FIELDS.get(name, name): found[stem] for name, found in members.items()
            }
            sources.append(Source(id=id, scene=id, split=top.split, box=box, **files))
    return Found(sources, orphans)


def _name_problem(stem: str) -> str:
    """Why results cannot be named like a picture; empty where they can."""
    try:
        storage.check_name(stem)
    except ValueError as error:
        return str(error)
    return ""


def folder_of(top: str, name: str) -> str:
    """A folder by its name, whatever the case."""
    folders = storage.list_folders(top)
    matches = [place for found, place in folders.items() if found.lower() == name.lower()]
    if not matches:
        raise FileNotFoundError(f"{top}: no folder {name}; found {sorted(folders)}")
    if len(matches) > 1:
        raise ValueError(f"{top}: {len(matches)} folders are named {name}; keep one")
    return matches[0]


def pictures_by_stem(folder: str) -> dict[str, str]:
    """Stem -> place of the pictures in a folder."""
    found: dict[str, str] = {}
    for name, place in storage.list_files(folder).items():
        if name.startswith(".") or not name.lower().endswith(EXTENSIONS):
            continue
        stem = stem_of(name)
        if stem in found:
            raise ValueError(f"{folder}: two pictures of the stem {stem}; keep one")
        found[stem] = place
    return found


def add_picture(files: dict[str, str], key: str, place: str) -> None:
    """Take a picture under its key.

    Raises:
        ValueError: another picture has it.
    """
    if key in files:
        raise ValueError(f"{files[key]} and {place}: both would be {key}; keep or rename one")
    files[key] = place


def stem_of(name: str) -> str:
    """A name without a picture's extension, composed: macOS writes é as e and an accent."""
    name = unicodedata.normalize("NFC", name)
    stem, dot, extension = name.rpartition(".")
    return stem if dot and f".{extension.lower()}" in EXTENSIONS else name
