"""Upscale a pair of images, by the network or by an exported package."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sddusr.imaging.images import read_picture, write_picture
from sddusr.photos.find_pairs import PairFiles
from sddusr.photos.jobs import Job, result_places
from sddusr.photos.options import UpscaleOptions
from sddusr.photos.upscaler import Upscaler

Image = str | Path | np.ndarray
"""A path or URI, or RGB pixels: uint8 or uint16, (height, width, 3)."""

ReportProgress = Callable[[str, float], None]
"""Receives the phase of the work and the share of it that is done, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class UpscaleResult:
    """An image that was made."""

    image: np.ndarray
    """RGB, uint8 or uint16, twice as high and wide as the wide image."""
    record: dict[str, Any]
    """What was found, done and needed: registration, matching, box, device, memory, seconds."""
    path: str | None
    """Where the image lies; None where it was not to be written."""


def upscale(
    wide: Image,
    tele: Image,
    out: str | Path | None = None,
    *,
    options: UpscaleOptions | None = None,
    progress: ReportProgress | None = None,
    **changes: Any,
) -> UpscaleResult:
    """Make a wide image twice as large, with the detail that a tele image has of its centre.

    The tele image is found in the wide one and brought to its colours, whatever its zoom, size and
    place; `box` or `centered` take it as it is.

    Args:
        wide: the image to upscale.
        tele: a telephoto image of the same scene.
        out: where to write the image, its record beside it; None writes nothing.
        options: how; see `UpscaleOptions`.
        progress: receives the phase of the work and the share of it that is done.
        **changes: fields of `UpscaleOptions`, such as `device="cuda"`, `memory="4GB"`.

    Raises:
        NotRegistered: the tele image was not found in the wide one (a ValueError).
        ValueError: images or options that cannot be used.
        FileNotFoundError: an image or the checkpoint is missing.
    """
    chosen = replace(options or UpscaleOptions(), **changes)
    chosen.check()
    with tempfile.TemporaryDirectory() as scratch:
        files = PairFiles(
            "image", _file(wide, f"{scratch}/wide.png"), _file(tele, f"{scratch}/tele.png")
        )
        target = str(out) if out is not None else f"{scratch}/image.png"
        (place,) = result_places([files], target, None, single=True).values()
        job = Job(*files, place, chosen.placement())
        upscaler = Upscaler(chosen.settings())
        record = upscaler.make(job, progress or (lambda phase, share: None))
        image = read_picture(place, 4 * upscaler.settings.max_pixels).pixels
    return UpscaleResult(image=image, record=record, path=None if out is None else place)


def _file(image: Image, scratch: str) -> str:
    """The image as a file; arrays are written without loss."""
    if not isinstance(image, np.ndarray):
        return str(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"an image is {image.dtype} of shape {image.shape}, need uint8 or uint16 of "
            f"(height, width, 3)"
        )
    write_picture(scratch, np.ascontiguousarray(image))
    return scratch
