"""Find LR/Ref/HR triplets on disk, matching files by stem, never by sort order."""

import functools
import hashlib
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from sddusr import storage
from sddusr.data.manifest import SPLITS
from sddusr.geometry.box import Box
from sddusr.imaging.images import EXTENSIONS

Layout = Literal["dusr-real", "folders", "samples", "pairs", "camerafusion"]

REGISTERED: tuple[Layout, ...] = ("pairs", "camerafusion")
"""Layouts of wide and tele pictures whose places in each other nobody has told."""

BoxRule = Literal["whole", "center", "registered"]
"""`whole`: Ref must have HR's size. `center`: Ref, of whatever size, lies in HR's middle.
`registered`: Ref is a tele picture that has to be found in HR, see `pairs.prepare_pair`."""


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
    """None: Ref is made of HR too, by `samples.degrade`."""
    box: Box | BoxRule


class Found(NamedTuple):
    sources: list[Source]
    """Sorted by split and id."""
    orphans: dict[str, str]
    """Id -> why it is no full triplet."""


def find(layout: Layout, root: str) -> Found:
    """Pair the files of a dataset.

    Args:
        root: the dataset's folder; `samples` has none.

    Raises:
        FileNotFoundError: a folder of the layout is missing.
        ValueError: two files of one stem, a coordinates file that is missing, ambiguous or
            damaged, or no triplet at all.
    """
    sources, orphans = _FINDERS[layout](root)
    if not sources and not orphans:
        raise ValueError(f"{root}: no pictures, need one of {', '.join(EXTENSIONS)}")
    return Found(sorted(sources, key=lambda source: (source.split, source.id)), orphans)


def hold_out(sources: list[Source], num_scenes: int) -> list[Source]:
    """Set scenes of `train` aside as `val`, chosen by a hash of their names.

    Adding a picture to the dataset then moves at most one other scene.

    Raises:
        ValueError: nothing would be left to train on.
    """
    scenes = {source.scene for source in sources if source.split == "train"}
    if num_scenes and num_scenes >= len(scenes):
        raise ValueError(
            f"--hold-out is {num_scenes}, need less than the {len(scenes)} training scenes"
        )
    ranked = sorted(scenes, key=lambda scene: hashlib.sha256(scene.encode()).digest())
    aside = set(ranked[:num_scenes])
    return [
        replace(source, split="val")
        if source.split == "train" and source.scene in aside
        else source
        for source in sources
    ]


def _samples(_: str) -> Found:
    from sddusr.data import sample_images  # it imports PyTorch, which upscaling may not have

    sources = []
    for split in sample_images.PICTURES:
        box: BoxRule = "whole" if split == "train" else "center"
        for name, path in sample_images.find(split).items():
            stem = _stem(name)
            sources.append(Source(id=stem, scene=stem, split=split, hr=path, box=box))
    return Found(sources, {})


def _dusr_real(root: str) -> Found:
    """train/{LR,HR,Ref_full} and test/{LR,HR,Ref_SIFT} with one JSON of centre boxes."""
    train, test = (_Top(name, f"{name}-", _folder(root, name)) for name in ("train", "test"))
    coordinates = _json_files(test.place) or _json_files(root)
    if not coordinates:
        raise ValueError(f"{test.place}: no *.json with the boxes, nor in {root}; put it there")
    return _joined(
        _pair(_triplets(train.place, ref="Ref_full"), train, "whole"),
        _pair(_triplets(test.place, ref="Ref_SIFT"), test, read_boxes(coordinates)),
    )


def _folders(root: str) -> Found:
    """LR, Ref and HR folders, below a folder for each split if there are any.

    A JSON file beside the three folders gives the centre boxes; without one they are centred.
    """
    found = []
    for top in _tops(root):
        coordinates = _json_files(top.place)
        boxes = read_boxes(coordinates) if coordinates else "center"
        found.append(_pair(_triplets(top.place, ref="Ref"), top, boxes))
    return _joined(*found)


def _pairs(root: str) -> Found:
    """wide and tele folders, below a folder for each split if there are any."""
    return _joined(*(_registered(top, ["wide"], ["tele"]) for top in _tops(root)))


def _camerafusion(root: str) -> Found:
    """The folders of DCSR's data set (Wang et al., ICCV 2021), as its loader and scripts name them.

    train, val and test hold HR (the wide picture, 3024x4032; also called LR/x1), LR/x2 (its half),
    Ref/x1 (the tele picture as it was shot, of HR's size and about twice its density) and Ref/x2
    (that, halved). Nothing in it is cropped or registered. The wide picture and Ref/x1 are read and
    LR is made anew, so LR/x2 and Ref/x2 need not be there.
    """
    found = []
    for top in _tops(root):
        has_hr = "hr" in map(str.lower, storage.list_folders(top.place))
        found.append(_registered(top, ["HR"] if has_hr else ["LR", "x1"], ["Ref", "x1"]))
    return _joined(*found)


_FIELDS = {"wide": "hr", "tele": "ref"}
"""What users call the members that a source names by their part in training."""

_FINDERS: dict[Layout, Callable[[str], Found]] = {
    "dusr-real": _dusr_real,
    "folders": _folders,
    "samples": _samples,
    "pairs": _pairs,
    "camerafusion": _camerafusion,
}


class _Top(NamedTuple):
    """The folder of a split."""

    split: str
    prefix: str
    """Of the split's ids."""
    place: str


def _tops(root: str) -> list[_Top]:
    """A folder for each split there is; without any, all is `train`."""
    below = {name.lower(): place for name, place in storage.list_folders(root).items()}
    found = [_Top(split, f"{split}-", below[split]) for split in SPLITS if split in below]
    return found or [_Top("train", "", root)]


def _joined(*found: Found) -> Found:
    sources = [source for part in found for source in part.sources]
    return Found(sources, {id: why for part in found for id, why in part.orphans.items()})


def _triplets(top: str, ref: str) -> dict[str, dict[str, str]]:
    """Member -> stem -> place, of the three folders of a split."""
    folders = {"lr": "LR", "ref": ref, "hr": "HR"}
    return {member: pictures_by_stem(_folder(top, name)) for member, name in folders.items()}


def _registered(top: _Top, wide: list[str], tele: list[str]) -> Found:
    """Wide and tele pictures, the folders of each one inside the other below a split's."""
    wide_folder, tele_folder = (functools.reduce(_folder, path, top.place) for path in (wide, tele))
    members = {"wide": pictures_by_stem(wide_folder), "tele": pictures_by_stem(tele_folder)}
    return _pair(members, top, "registered")


def _pair(
    members: Mapping[str, Mapping[str, str]], top: _Top, boxes: Mapping[str, Box] | BoxRule
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
            files = {_FIELDS.get(name, name): found[stem] for name, found in members.items()}
            sources.append(Source(id=id, scene=id, split=top.split, box=box, **files))
    return Found(sources, orphans)


def _name_problem(stem: str) -> str:
    """Why results cannot be named like a picture; empty where they can."""
    try:
        storage.check_name(stem)
    except ValueError as error:
        return str(error)
    return ""


def _folder(top: str, name: str) -> str:
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
        stem = _stem(name)
        if stem in found:
            raise ValueError(f"{folder}: two pictures of the stem {stem}; keep one")
        found[stem] = place
    return found


def _stem(name: str) -> str:
    """A name without a picture's extension, composed: macOS writes é as e and an accent."""
    name = unicodedata.normalize("NFC", name)
    stem, dot, extension = name.rpartition(".")
    return stem if dot and f".{extension.lower()}" in EXTENSIONS else name


def _json_files(folder: str) -> list[str]:
    files = storage.list_files(folder).items()
    return [place for name, place in files if name.endswith(".json") and name[0] != "."]


def read_boxes(files: list[str]) -> dict[str, Box]:
    """Stem -> centre box; the file's keys are stems or file names."""
    if len(files) > 1:
        raise ValueError(f"{files[0]}: {len(files)} JSON files beside it; keep the one with boxes")
    tree = storage.read_json(files[0])
    if not isinstance(tree, dict):
        raise ValueError(f"{files[0]}: need an object of name: [y0, y1, x0, x1] in HR pixels")
    boxes: dict[str, Box] = {}
    for key, value in tree.items():
        if _stem(key) in boxes:
            raise ValueError(f"{files[0]}: {_stem(key)} has two boxes; keep one")
        boxes[_stem(key)] = _box(value, f"{files[0]}: {key}")
    return boxes


def _box(value: Any, name: str) -> Box:
    if not (isinstance(value, list) and len(value) == 4 and all(type(v) is int for v in value)):
        raise ValueError(f"{name} is {str(value)[:80]}, need [y0, y1, x0, x1] in HR pixels")
    return Box(*value)
