"""A trained network for images that are prepared already: `sddusr.load`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sddusr.checkpoint import load_model, read_checkpoint
from sddusr.config import Config
from sddusr.geometry.box import Box
from sddusr.inference import Upscaled, super_resolve
from sddusr.model.precision import Precision
from sddusr.model.sddusr import SDDuSR
from sddusr.photos.engines import pick_device
from sddusr.photos.jobs import Device
from sddusr.photos.options import find_checkpoint


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
