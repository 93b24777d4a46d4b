"""What the parts of gpu.py share: where they run, and what they run on."""

import platform
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from _network import model_config, textured
from torch import Tensor

from sddusr.config import PRESETS, Config
from sddusr.geometry.box import Box
from sddusr.inference import super_resolve
from sddusr.model.matching.mask import gumbel_noise
from sddusr.model.matching.nearest_key import has_triton
from sddusr.model.precision import Precision
from sddusr.model.sddusr import SDDuSR
from sddusr.training.learner import Learner
from sddusr.types import Batch

FORMATS: tuple[Precision, ...] = ("float32", "tf32", "bfloat16")
CLOSE = {"float32": 1e-5, "tf32": 1e-3, "bfloat16": 1e-2}
"""Largest difference to float64, of the largest value."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """Where and how large."""

    device: torch.device
    is_quick: bool
    is_pretend: bool

    def describe(self) -> Row:
        name = "pretend" if self.is_pretend else platform.processor() or platform.machine()
        if self.device.type == "cuda" and not self.is_pretend:
            name = torch.cuda.get_device_name()
        return {"device": name, "torch": torch.__version__, "quick": self.is_quick,
                "triton": has_triton()}  # fmt: skip

    def seconds(self, work: Callable[[], Any], rounds: int = 5) -> float:
        """Median of some calls, after one to warm up."""
        found = []
        for _ in range(2 if self.is_quick else rounds + 1):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - started)
        return median(found[1:])

    def waits(self, work: Callable[[], Any]) -> int | None:
        """How often the host waits for the card; None without one."""
        if self.device.type != "cuda":
            return None
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in caught)

    @property
    def fastest(self) -> Precision:
        """What a card trains in; most processors emulate bfloat16."""
        return "bfloat16" if self.device.type == "cuda" else "float32"

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def random(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, dtype=dtype).to(self.device)


def needs_values(part: Callable[[Setup], Iterator[Row]]) -> Callable[[Setup], Iterator[Row]]:
    """A pretend GPU gives no numbers worth comparing."""

    def run(setup: Setup) -> Iterator[Row]:
        if setup.is_pretend:
            yield {"skipped": "a pretend GPU has no clock and no values"}
        else:
            yield from part(setup)

    return run


def batch_of(num: int, crop: int, seed: int = 0) -> Batch:
    """Crops of synthetic images."""
    hr, ref = (
        torch.stack([textured(2 * crop, 2 * crop, seed + i) for i in range(start, start + num)])
        for start in (0, num)
    )
    lr, center = (F.avg_pool2d(image, 2) for image in (hr, ref))
    return Batch(
        ids=tuple(map(str, range(num))),
        lr=lr,
        lr_center=center,
        ref=ref,
        hr=hr,
        mask_label=torch.arange(crop // 2).remainder(2).expand(num, 1, crop // 2, -1).float(),
        seeds=torch.arange(seed, seed + num),
        center_offset=torch.zeros(num, 2, dtype=torch.long),
        has_ref=torch.ones(num, dtype=torch.bool),
        gumbel=gumbel_noise(torch.arange(seed, seed + num), crop // 2, crop // 2),
    )


def on_device(batch: Batch, setup: Setup) -> Batch:
    moved = {
        name: value.to(setup.device)
        for name, value in batch._asdict().items()
        if isinstance(value, Tensor) and name != "seeds"
    }
    return batch._replace(**moved)


def config_of(preset: str, precision: Precision, **train: Any) -> Config:
    config = PRESETS[preset][1]
    train = {"precision": precision, "seed": 0} | train
    return replace(
        config, model=model_config(preset), train=replace(config.train, **cast(Any, train))
    )


def learner_of(
    preset: str, setup: Setup, precision: Precision | None = None, **train: Any
) -> Learner:
    return Learner(config_of(preset, precision or setup.fastest, **train), setup.device)


def image_maker(
    model: SDDuSR, size: tuple[int, int], precision: Precision, memory_bytes: int | None = None
) -> Callable[[], Any]:
    height, width = size
    lr = (255 * textured(height, width).permute(1, 2, 0).numpy()).astype(np.uint8)
    rows, cols = height // 2 * 2, width // 2 * 2
    ref = (255 * textured(rows, cols, 1).permute(1, 2, 0).numpy()).astype(np.uint8)
    y, x = height // 2, width // 2
    box = Box(y, y + rows, x, x + cols)
    return lambda: super_resolve(
        model, lr, ref, box, precision, dtype=np.uint8, memory_bytes=memory_bytes
    )


@contextmanager
def pretending() -> Iterator[Any]:
    from tests.pretend_gpu import pretend_gpu

    with pretend_gpu(shapes_only=True) as gpu:
        yield gpu
