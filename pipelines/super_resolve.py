"""Enlarge a wide picture with the help of a tele picture of its centre.

python pipelines/super_resolve.py WIDE TELE --checkpoint DIR --out FILE
python pipelines/super_resolve.py WIDES TELES --checkpoint DIR --out DIR --boxes FILE
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
import tyro
from pyarrow.fs import FileType

from pipelines import cli
from sddusr.checkpoint import load_model
from sddusr.config import SCALE
from sddusr.data import places
from sddusr.data.geometry import centered, whole
from sddusr.data.images import MAX_PIXELS, read_rgb, write_png
from sddusr.data.layouts import pictures_by_stem, read_boxes
from sddusr.inference import Precision, super_resolve, to_8bit
from sddusr.types import Box

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SuperResolveOptions:
    """A picture twice as large as the wide one, or a folder of them."""

    wide: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="WIDE")]
    """The wide picture (LR), or a folder of them."""
    tele: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TELE")]
    """The tele picture (Ref), at the result's density, or a folder paired with it by stem."""
    checkpoint: str
    """A checkpoint, or a training run's folder (its best checkpoint)."""
    out: str = "sr.png"
    """PNG file to write, or the folder for them."""
    box: tuple[int, int, int, int] | None = None
    """y0 y1 x0 x1: where the tele picture lies in the result, in the result's pixels (twice the
    wide picture's), ends excluded; left out: in the middle."""
    boxes: str | None = None
    """Of folders: a JSON file of stem: [y0, y1, x0, x1]; left out: in the middle."""
    precision: Precision = "float32"
    """Number format of the network."""
    max_megapixels: float = MAX_PIXELS / 1e6
    """Larger pictures are refused before they are decoded."""


class Job(NamedTuple):
    """One picture to make."""

    wide: str
    tele: str
    box: Box | None
    """None: the tele picture lies in the middle."""
    out: str


def main(options: SuperResolveOptions) -> None:
    """Make every picture.

    Raises:
        FileNotFoundError: a picture, a partner or the checkpoint is missing.
        ValueError: sizes and boxes that do not fit.
    """
    jobs = list(_jobs(options))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(options.checkpoint).to(device)
    max_pixels = round(options.max_megapixels * 1e6)
    for job in jobs:
        lr, ref = (read_rgb(place, max_pixels).pixels for place in (job.wide, job.tele))
        box = job.box or _middle(lr.shape[:2], ref.shape[:2], job.tele)
        sr = super_resolve(model, lr, ref, box, options.precision).sr
        write_png(job.out, to_8bit(sr))
        log.info("%s: %dx%d", job.out, *sr.shape[:2])


def _jobs(options: SuperResolveOptions) -> Iterator[Job]:
    are_folders = [_is_folder(place) for place in (options.wide, options.tele)]
    if not any(are_folders):
        if options.boxes is not None:
            raise ValueError("--boxes goes with two folders; give --box y0 y1 x0 x1 for one pair")
        box = Box(*options.box) if options.box else None
        yield Job(options.wide, options.tele, box, options.out)
        return
    if not all(are_folders) or options.box is not None:
        raise ValueError("give two files with --box, or two folders with --boxes FILE")
    wides, teles = pictures_by_stem(options.wide), pictures_by_stem(options.tele)
    boxes = read_boxes([options.boxes]) if options.boxes else dict.fromkeys(wides)
    for others, name in ((teles, options.tele), (boxes, options.boxes)):
        if orphans := sorted(wides.keys() - others.keys()):
            raise FileNotFoundError(f"{name}: nothing for {orphans[:5]} of {options.wide}")
    for stem, wide in wides.items():
        yield Job(wide, teles[stem], boxes[stem], places.join(options.out, f"{stem}.png"))


def _is_folder(place: str) -> bool:
    kind = places.info(place).type
    if kind == FileType.NotFound:
        raise FileNotFoundError(f"{place}: no such file or folder")
    return kind == FileType.Directory


def _middle(lr_shape: tuple[int, ...], ref_shape: tuple[int, ...], tele: str) -> Box:
    """The box of Ref's size in the middle of the result."""
    height, width = (SCALE * side for side in lr_shape)
    if ref_shape[0] > height or ref_shape[1] > width:
        raise ValueError(
            f"{tele}: {ref_shape[0]}x{ref_shape[1]} is larger than the result, {height}x{width}; "
            f"resize it to the result's density"
        )
    return centered(ref_shape[0], ref_shape[1], whole(height, width))


if __name__ == "__main__":
    cli.run(main, SuperResolveOptions)
