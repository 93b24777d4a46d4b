"""Find LR/Ref/HR triplets on disk, matching files by stem, never by sort order."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from sddusr import storage
from sddusr.data import paper_layouts
from sddusr.data.source_files import (
    BoxRule,
    Found,
    Source,
    Top,
    folder_of,
    joined,
    pair,
    pictures_by_stem,
    registered,
    split_folders,
    stem_of,
    warn_of_other_splits,
)
from sddusr.geometry.box import Box
from sddusr.imaging.images import EXTENSIONS

Layout = Literal[
    "dusr-real",
    "folders",
    "samples",
    "pairs",
    "camerafusion",
    "hzsr",
    "cufed5",
    "selfdzsr-nikon",
    "selfdzsr-iphone",
]

REGISTERED: tuple[Layout, ...] = ("pairs", "camerafusion", "hzsr", "cufed5")
"""Layouts of wide and tele pictures whose places in each other nobody has told."""


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
            stem = stem_of(name)
            sources.append(Source(id=stem, scene=stem, split=split, hr=path, box=box))
    return Found(sources, {})


def _dusr_real(root: str) -> Found:
    """train/{LR,HR,Ref_full} and test/{LR,HR,Ref_SIFT} with one JSON of centre boxes."""
    warn_of_other_splits(root, ("train", "test"))
    train, test = (Top(name, f"{name}-", folder_of(root, name)) for name in ("train", "test"))
    coordinates = _json_files(test.place) or _json_files(root)
    if not coordinates:
        raise ValueError(f"{test.place}: no *.json with the boxes, nor in {root}; put it there")
    return joined(
        pair(_triplets(train.place, ref="Ref_full"), train, "whole"),
        pair(_triplets(test.place, ref="Ref_SIFT"), test, read_boxes(coordinates)),
    )


def _folders(root: str) -> Found:
    """LR, Ref and HR folders, below a folder for each split if there are any.

    A JSON file beside the three folders gives the centre boxes; without one they are centred.
    """
    found = []
    for top in split_folders(root):
        coordinates = _json_files(top.place)
        boxes = read_boxes(coordinates) if coordinates else "center"
        found.append(pair(_triplets(top.place, ref="Ref"), top, boxes))
    return joined(*found)


def _pairs(root: str) -> Found:
    """wide and tele folders, below a folder for each split if there are any."""
    return joined(*(registered(top, ["wide"], ["tele"]) for top in split_folders(root)))


def _camerafusion(root: str) -> Found:
    """The folders of DCSR's data set (Wang et al., ICCV 2021), as its loader and scripts name them.

    train, val and test hold HR (the wide picture, 3024x4032; also called LR/x1), LR/x2 (its half),
    Ref/x1 (the tele picture as it was shot, of HR's size and about twice its density) and Ref/x2
    (that, halved). Nothing in it is cropped or registered. The wide picture and Ref/x1 are read and
    LR is made anew, so LR/x2 and Ref/x2 need not be there.
    """
    found = []
    for top in split_folders(root):
        has_hr = "hr" in map(str.lower, storage.list_folders(top.place))
        found.append(registered(top, ["HR"] if has_hr else ["LR", "x1"], ["Ref", "x1"]))
    return joined(*found)


_FINDERS: dict[Layout, Callable[[str], Found]] = {
    "dusr-real": _dusr_real,
    "folders": _folders,
    "samples": _samples,
    "pairs": _pairs,
    "camerafusion": _camerafusion,
    "hzsr": paper_layouts.find_hzsr,
    "cufed5": paper_layouts.find_cufed5,
    "selfdzsr-nikon": paper_layouts.find_selfdzsr_nikon,
    "selfdzsr-iphone": paper_layouts.find_selfdzsr_iphone,
}


def _triplets(top: str, ref: str) -> dict[str, dict[str, str]]:
    """Member -> stem -> place, of the three folders of a split."""
    folders = {"lr": "LR", "ref": ref, "hr": "HR"}
    return {member: pictures_by_stem(folder_of(top, name)) for member, name in folders.items()}


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
        if stem_of(key) in boxes:
            raise ValueError(f"{files[0]}: {stem_of(key)} has two boxes; keep one")
        boxes[stem_of(key)] = _box(value, f"{files[0]}: {key}")
    return boxes


def _box(value: Any, name: str) -> Box:
    if not (isinstance(value, list) and len(value) == 4 and all(type(v) is int for v in value)):
        raise ValueError(f"{name} is {str(value)[:80]}, need [y0, y1, x0, x1] in HR pixels")
    return Box(*value)
