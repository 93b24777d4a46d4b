"""What runs a network on a pair of images: PyTorch, or onnxruntime on an exported package."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np

from sddusr.geometry.box import Box
from sddusr.inference.process_memory import NotEnoughMemoryError
from sddusr.inference.result import Upscaled
from sddusr.photos.jobs import Device, Settings


class Engine(ABC):
    """Holds the weights and super-resolves one pair after the other."""

    settings: Settings
    device: Literal["cpu", "cuda"]
    has_detail_skip: bool
    """Whether the network adds the tele image's own detail to the result."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def super_resolve(
        self,
        lr: np.ndarray,
        ref: np.ndarray,
        box: Box,
        *,
        dtype: Any,
        without_ref: bool,
        progress: Callable[[float], None],
    ) -> Upscaled:
        """As `inference.super_resolve`, with what the settings say."""
        with explained_memory_errors():
            return self.run(
                lr,
                ref,
                box,
                dtype=dtype,
                memory_bytes=self.settings.memory_bytes,
                memory_share=self.settings.memory_share,
                progress=progress,
                trust=self.settings.trust,
                without_ref=without_ref,
            )

    @abstractmethod
    def run(self, lr: np.ndarray, ref: np.ndarray, box: Box, **options: Any) -> Upscaled:
        """The runtime's own `super_resolve`."""

    @abstractmethod
    def peak_bytes(self) -> int:
        """Most memory that was held so far."""

    def with_settings(self, settings: Settings) -> "Engine":
        """The same weights on the same device, for pictures with other settings."""
        other = copy.copy(self)
        other.settings = settings
        return other


def open_engine(settings: Settings) -> Engine:
    """The engine that the settings name.

    Raises:
        ValueError, OSError: its weights or its runtime cannot be had.
    """
    return OnnxEngine(settings) if settings.runtime == "onnx" else TorchEngine(settings)


def check_weights(settings: Settings) -> None:
    """Refuse damaged weights before workers start, on a machine that may lack their device.

    Raises:
        ValueError, OSError: they cannot be read.
    """
    if settings.runtime == "onnx":
        from sddusr.portable.package import Package

        Package(settings.checkpoint)
    else:
        from sddusr.checkpoint import load_model

        load_model(settings.checkpoint)


class OnnxEngine(Engine):
    """An exported package; imports no PyTorch."""

    device: Literal["cpu", "cuda"] = "cpu"

    def __init__(self, settings: Settings) -> None:
        from sddusr.portable.package import Package

        super().__init__(settings)
        self.package = Package(settings.checkpoint)
        self.has_detail_skip = self.package.manifest.has_detail_skip

    def run(self, lr: np.ndarray, ref: np.ndarray, box: Box, **options: Any) -> Upscaled:
        """With an exact search."""
        from sddusr.portable.upscale import super_resolve

        return super_resolve(self.package, lr, ref, box, **options)

    def peak_bytes(self) -> int:
        """Of this process."""
        from sddusr.inference import process_memory

        return process_memory.peak_bytes()


class TorchEngine(Engine):
    """A checkpoint on the CPU or a GPU."""

    def __init__(self, settings: Settings) -> None:
        import torch

        from sddusr.checkpoint import load_model
        from sddusr.model.precision import warn_if_emulated
        from sddusr.model.tuning import place_on

        super().__init__(settings)
        self.device: Literal["cpu", "cuda"] = pick_device(settings.device)
        warn_if_emulated(settings.precision, torch.device(self.device))
        self.model = place_on(load_model(settings.checkpoint), torch.device(self.device))
        self.has_detail_skip = self.model.trust is not None

    def run(self, lr: np.ndarray, ref: np.ndarray, box: Box, **options: Any) -> Upscaled:
        """In the precision and with the search of the settings."""
        from sddusr.inference import super_resolve

        options |= {"precision": self.settings.precision, "matching": self.settings.matching}
        return super_resolve(self.model, lr, ref, box, **options)

    def peak_bytes(self) -> int:
        """Of this process; on a GPU, what torch took there."""
        import torch

        from sddusr.inference.memory import peak_bytes

        return peak_bytes(torch.device(self.device))


def pick_device(device: Device) -> Literal["cpu", "cuda"]:
    """The GPU where there is one, unless another device is asked for.

    Raises:
        ValueError: `cuda` without a GPU.
    """
    import torch

    from sddusr.model.device import gpu_problem

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"--device is cuda, but PyTorch finds no GPU ({gpu_problem()}); pass --device cpu"
        )
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


@contextmanager
def explained_memory_errors() -> Iterator[None]:
    """Memory that cannot be had as bad input: a limit is the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_short = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        texts = ("can't allocate memory", "Failed to allocate memory")
        if not is_short and not any(text in str(error) for text in texts):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise NotEnoughMemoryError(
            f"out of memory ({reason}); give a limit that this machine has, such as --memory 4GB"
        ) from error
