"""Photographs and real LR/HR pairs -> triplets in the layout `folders`, for the ablation and the
network that ships.

python benchmarks/triplets.py --photos DIR --pairs DIR --test kodim04 'city100_*_029' --out OUT

OUT/mix/train   photographs, degraded twice (as `camera` and as `phone`, see degradation.py), with
                a Ref of the whole picture as `samples` makes it; pairs with their own LR, each once
                with HR as its Ref and `--draws` times with another tele view of it
OUT/mix/val     pictures named by --val, photographs as `camera`
OUT/NAME/test   a test set each, of pictures named by --test: `photos` (degraded as `camera`),
                `photos-phone` (as `phone`), `photos-faulty` (as `camera`, each with two faulty
                Refs, see ref_faults.py) and `pairs` (own LR, the centre half of HR as Ref)

A pair is a folder with hr.png and wide.png, the wide picture being on HR's grid already (City100);
LR is the mean of its 2x2 pixels. Photographs longer than `--side-px` are made smaller first: large
ones are soft at their own size. Every draw is seeded by a picture's name.
"""

import argparse
import fnmatch
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from sddusr.config import RefsConfig
from sddusr.config.arguments import parse_args
from sddusr.data.degradation import Lens, rng_of, to_uint8
from sddusr.data.ref_faults import apply_fault
from sddusr.data.sample_images import Degraded, degrade, tele_view
from sddusr.geometry.box import HR_PER_CELL, Box, centered, crop, snap_box, to_lr, whole
from sddusr.imaging.images import EXTENSIONS, read_rgb, write_png

LENSES: tuple[Lens, ...] = ("camera", "phone")
PHOTO_SETS: dict[Lens, str] = {"camera": "photos", "phone": "photos-phone"}
FAULTS = "defocus", "noise", "occluder", "exposure", "jpeg", "zoom"
"""Test photograph i gets faults i and i + 3, in turn."""


class Made(NamedTuple):
    split: str
    """Folder below --out."""
    name: str
    lr: np.ndarray
    ref: np.ndarray
    hr: np.ndarray
    box: Box


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="photographs, at any depth")
    parser.add_argument("--pairs", type=Path, help="folders of pairs")
    parser.add_argument("--pattern", default="city100_*", help="which folders of --pairs")
    parser.add_argument("--test", nargs="+", required=True, help="names, or patterns, to test on")
    parser.add_argument("--val", nargs="*", default=[], help="the same, to validate on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--side-px", type=int, default=1536)
    parser.add_argument("--draws", type=int, default=5)
    given = parse_args(parser)
    if given.out.exists():
        parser.error(f"--out {given.out} is there already; name another folder, or delete it")
    boxes: dict[str, dict[str, Box]] = {}
    for made in triplets(given):
        for folder, picture in (("LR", made.lr), ("Ref", made.ref), ("HR", made.hr)):
            write_png(str(given.out / made.split / folder / f"{made.name}.png"), picture)
        boxes.setdefault(made.split, {})[made.name] = made.box
        print(f"{made.split:20} {made.name:40} {made.hr.shape[0]}x{made.hr.shape[1]}", flush=True)
    for split, of_split in boxes.items():
        (given.out / split / "boxes.json").write_text(json.dumps(of_split, indent=1))


def triplets(given: argparse.Namespace) -> Iterator[Made]:
    photos = {path.stem: path for path in _pictures(given.photos)}
    if not photos:
        raise SystemExit(f"error: {given.photos}: no pictures there")
    num_tested = 0
    for name, path in photos.items():
        photo = _shrunk(read_rgb(str(path)).pixels, given.side_px)
        split = _split(name, given)
        for lens in LENSES:
            folder = f"mix/{split}" if split != "test" else f"{PHOTO_SETS[lens]}/test"
            if split == "val" and lens != "camera":
                continue
            made = degrade(photo, f"{name}-{lens}", full_ref=split == "train", lens=lens)
            yield Made(folder, f"{name}-{lens}", made.lr, made.ref, made.hr, made.box)
            if split == "test" and lens == "camera":
                yield from _faulty(name, made, num_tested)
                num_tested += 1
    for folder in sorted(given.pairs.glob(given.pattern)) if given.pairs else []:
        yield from _of_pair(folder, _split(folder.name, given), given.draws)


def _faulty(name: str, made: Degraded, number: int) -> Iterator[Made]:
    center = np.ascontiguousarray(crop(made.lr, to_lr(made.box)))
    for kind in (FAULTS[(number + step) % len(FAULTS)] for step in (0, 3)):
        rng = rng_of(f"{name}-{kind}")
        ref = apply_fault(kind, made.ref, center, made.hr, RefsConfig(), rng).ref
        yield Made("photos-faulty/test", f"{name}-{kind}", made.lr, ref, made.hr, made.box)


def _of_pair(folder: Path, split: str, num_draws: int) -> Iterator[Made]:
    hr, wide = (read_rgb(str(folder / f"{name}.png")).pixels for name in ("hr", "wide"))
    height, width = (side // HR_PER_CELL * HR_PER_CELL for side in hr.shape[:2])
    hr = np.ascontiguousarray(hr[:height, :width])
    wide = wide[:height, :width].astype(np.float32)
    lr = to_uint8(cv2.resize(wide, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    everything = whole(height, width)
    if split != "train":
        box = snap_box(centered(height // 2, width // 2, everything))
        folder_name = "pairs/test" if split == "test" else "mix/val"
        yield Made(folder_name, folder.name, lr, np.ascontiguousarray(crop(hr, box)), hr, box)
        return
    yield Made("mix/train", folder.name, lr, hr, hr, everything)
    for draw in range(num_draws):
        name = f"{folder.name}-{draw}"
        yield Made("mix/train", name, lr, tele_view(hr, rng_of(name))[0], hr, everything)


def _split(name: str, given: argparse.Namespace) -> str:
    held_out = {"test": given.test, "val": given.val}
    named = (split for split, patterns in held_out.items() if _matches(name, patterns))
    return next(named, "train")


def _pictures(root: Path) -> list[Path]:
    return [path for path in sorted(root.rglob("*")) if path.suffix.lower() in EXTENSIONS]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _shrunk(photo: np.ndarray, side_px: int) -> np.ndarray:
    scale = side_px / max(photo.shape[:2])
    if scale >= 1:
        return photo
    return cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    main()
