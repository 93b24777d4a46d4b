"""Datasets of other papers as their authors ship them, each with the source of its layout."""

import re
from dataclasses import replace

from sddusr import storage
from sddusr.data.source_files import (
    BoxRule,
    Found,
    Top,
    add_picture,
    folder_of,
    joined,
    pair,
    pictures_by_stem,
    registered,
    warn_of_other_splits,
)

_LENS = re.compile(r"(?:(?P<scene>.*)[_\- ])?(?P<lens>w|wide|t|tele)", re.IGNORECASE)
_DENSITY = re.compile(r"[_\-]?x[124]$", re.IGNORECASE)
_NUMBERED = re.compile(r"(?P<scene>.+)_(?P<number>\d)")


def find_hzsr(root: str) -> Found:
    """Synchronous wide (W) and telephoto (T) pictures, as HZSR has them; all of it is `test`.

    Wu et al., "Efficient Hybrid Zoom using Camera Fusion on Mobile Phones" (SIGGRAPH Asia 2023),
    Section 5: 150 pairs of W and T pictures of 12 megapixels, without a truth. The archive itself
    was not at hand, so two trees are read: folders W and T (or wide and tele) with pictures of the
    same stems; or a W and a T picture side by side, called W or ending in _W, in one folder or in a
    folder for each scene.
    """
    names = {name.lower() for name in storage.list_folders(root)}
    test = Top("test", "test-", root)
    found = [lenses for lenses in (("w", "t"), ("wide", "tele")) if names.issuperset(lenses)]
    if len(found) > 1:
        raise ValueError(f"{root}: folders W and T beside wide and tele; keep two of them")
    if found:
        return registered(test, [found[0][0]], [found[0][1]])
    members = {"wide": {}, "tele": {}}
    for folder, place in {"": root, **storage.list_folders(root)}.items():
        for stem, picture in pictures_by_stem(place).items():
            if match := _LENS.fullmatch(stem):
                scene = "-".join(filter(None, (folder, match["scene"]))) or "scene"
                lens = "wide" if match["lens"].lower().startswith("w") else "tele"
                add_picture(members[lens], scene, picture)
    if not any(members.values()):
        raise ValueError(
            f"{root}: no folders W and T, nor pictures called *_W and *_T; found "
            f"{', '.join(sorted(names)) or 'no folders'}; sort them into wide/ and tele/ and name "
            "the layout pairs"
        )
    return pair(members, test, "registered")


def find_cufed5(root: str) -> Found:
    """CUFED5's test set: NNN_0.png is HR, NNN_1.png the most similar of its five references.

    The names are those that the loaders of TTSR (dataset/cufed.py: test/CUFED5/*_0.png and *_1.png)
    and of C2-Matching (datasets/CUFED5/000_0.png to 125_5.png) read. A reference is another photo
    of the event and not the view of a longer lens, and no box says where it lies. So it is
    registered like a tele picture, and refused with the reason where that fails, as it does where
    the reference is no denser than HR; `--on-error quarantine` keeps the others.
    """
    place = root
    for name in ("test", "CUFED5"):
        if name.lower() in map(str.lower, storage.list_folders(place)):
            place = folder_of(place, name)
    members: dict[str, dict[str, str]] = {"wide": {}, "tele": {}}
    for stem, picture in pictures_by_stem(place).items():
        match = _NUMBERED.fullmatch(stem)
        if match and match["number"] in "01":
            members["wide" if match["number"] == "0" else "tele"][match["scene"]] = picture
    if not members["wide"]:
        raise ValueError(f"{place}: no pictures called NNN_0 (HR) and NNN_1 (its reference)")
    return pair(members, Top("test", "test-", place), "registered")


def find_selfdzsr_nikon(root: str) -> Found:
    """SelfDZSR's Nikon pictures: {train,test}_{LR,HR}, and _Ref in the release of SelfDZSR++.

    As data/dsr_dataset.py of SelfDZSR reads them below Nikon/, and data/nikon_dataset.py of
    SelfDZSR++: LR/DSC_1_x1.png, Ref/DSC_1_x2.png and HR/DSC_1_x4.png show the same part, at
    one, two and four times LR's density. This network enlarges by two: HR is Ref's x2 picture where
    there is one, and else the means of x4's 2x2 pixels. As in SelfDZSR, the network's Ref is a part
    of HR itself: all of it in training, from which crops are taken, and the middle half a side in
    the test.
    """
    if "nikon" in map(str.lower, storage.list_folders(root)):
        root = folder_of(root, "Nikon")
    return joined(*(_nikon_split(root, split) for split in ("train", "test")))


def _nikon_split(root: str, split: str) -> Found:
    names = {name.lower() for name in storage.list_folders(root)}
    has_x2 = f"{split}_ref" in names
    folders = {"lr": f"{split}_LR", "hr": f"{split}_{'Ref' if has_x2 else 'HR'}"}
    members: dict[str, dict[str, str]] = {}
    for member, name in folders.items():
        members[member] = {}
        for stem, picture in pictures_by_stem(folder_of(root, name)).items():
            add_picture(members[member], _DENSITY.sub("", stem), picture)
    return _self_referenced(members, Top(split, f"{split}-", root), halved=not has_x2)


def find_selfdzsr_iphone(root: str) -> Found:
    """SelfDZSR++'s iPhone pictures: {train,test}/{LR,Ref,HR}/VIDEO/FRAME.

    As data/iphone_dataset.py of SelfDZSR++ reads them: LR of the ultra-wide, Ref of the wide and HR
    of the tele camera show the same part at one, two and four times LR's density. This network
    enlarges by two, so HR is their Ref, and the network's Ref a part of it; see
    `find_selfdzsr_nikon`. The frames of a video are one scene.
    """
    warn_of_other_splits(root, ("train", "test"))
    return joined(*(_iphone_split(root, split) for split in ("train", "test")))


def _iphone_split(root: str, split: str) -> Found:
    top = folder_of(root, split)
    members: dict[str, dict[str, str]] = {}
    scenes: dict[str, str] = {}
    for member, name in (("lr", "LR"), ("hr", "Ref")):
        members[member] = {}
        for video, place in storage.list_folders(folder_of(top, name)).items():
            for stem, picture in pictures_by_stem(place).items():
                key, scene = f"{video}_{stem}", f"{split}-{video}"
                if scenes.setdefault(f"{split}-{key}", scene) != scene:
                    raise ValueError(
                        f"{picture}: another video has a picture {key} too; rename one"
                    )
                members[member][key] = picture
    found = _self_referenced(members, Top(split, f"{split}-", top), halved=False)
    return found._replace(
        sources=[replace(source, scene=scenes[source.id]) for source in found.sources]
    )


def _self_referenced(members: dict[str, dict[str, str]], top: Top, halved: bool) -> Found:
    """Triplets with a part of HR as Ref."""
    box: BoxRule = "half" if top.split == "test" else "whole"
    found = pair(members, top, box)
    return found._replace(
        sources=[replace(source, ref=source.hr, halved=halved) for source in found.sources]
    )
