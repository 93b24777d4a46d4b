"""The two functions of `import sddusr`: load a network, upscale a pair of images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sddusr.checkpoint import load_model, read_checkpoint
from sddusr.config import Config
from sddusr.geometry.box import Box
from sddusr.imaging.images import read_picture, write_picture
from sddusr.inference import Upscaled, super_resolve
from sddusr.model.precision import Precision
from sddusr.model.sddusr import SDDuSR
from sddusr.photos.find_pairs import PairFiles
from sddusr.photos.jobs import Device, Job, result_places
from sddusr.photos.options import UpscaleOptions, find_checkpoint
from sddusr.photos.upscaler import Upscaler, pick_device

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


@dataclass(frozen=True, kw_only=True)
class Network:
    """A trained network that runs on prepared images."""

    model: SDDuSR
    config: Config
    place: str
    """Folder or URI of its checkpoint."""

    def __call__(
        self,
        lr: np.ndarray,
        ref: np.ndarray,
        box: tuple[int, int, int, int],
        *,
        precision: Precision = "float32",
        memory_bytes: int | None = None,
    ) -> Upscaled:
        """Upscale an image whose Ref is registered already.

        Args:
            lr: RGB, uint8 or uint16, (height, width, 3).
            ref: RGB of the same scene at twice the density of `lr`.
            box: where `ref` lies in the result: y0, y1, x0, x1, ends excluded.
            precision: number format of the network.
            memory_bytes: peak memory of the process; None takes most of what is free.

        Returns:
            `.sr`, the image in the type of `lr`, and how it came about.

        Raises:
            ValueError: the box leaves the result, or `ref` does not have its size.
        """
        return super_resolve(
            self.model,
            lr,
            ref,
            Box(*box),
            precision,
            dtype=lr.dtype,
            memory_bytes=memory_bytes,
        )


def load(path_or_name: str = "compact", *, device: Device = "auto") -> Network:
    """Load a trained network: a run's folder (its best checkpoint), one checkpoint, or a name.

    Args:
        path_or_name: a path or URI; or `compact`, the small network that ships.
        device: `cpu`, `cuda`, or `auto` for the GPU where there is one.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: the checkpoint is damaged.
    """
    place = find_checkpoint(path_or_name)
    model = load_model(place).to(pick_device(device))
    return Network(model=model, config=read_checkpoint(place).config, place=place)


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
