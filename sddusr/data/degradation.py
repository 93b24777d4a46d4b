"""How LR is made where no second exposure gives it: HR halved, as a kernel or as a camera would."""

import hashlib
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import UInt8

from sddusr.imaging.resize import bicubic_down

Lens = Literal["camera", "phone"]
Degradation = Literal["bicubic", Lens]
"""`bicubic`: the antialiased bicubic of the project and nothing else. `camera`: Gaussian blur of σ
0.8 to 1.2 HR pixels (the wide lens), the mean of each 2x2 pixels (its sensor), Gaussian noise of σ
1 to 2 of 255, JPEG of quality 85 to 95. `phone`: the same with blur of 0.5 to 1.6, noise of 0.5 to
4 and quality 70 to 95."""


class _Draws(NamedTuple):
    """From where to where the numbers of a lens are drawn."""

    blur_px: tuple[float, float]
    noise: tuple[float, float]
    quality: tuple[int, int]


_LENSES: dict[Lens, _Draws] = {
    "camera": _Draws((0.8, 1.2), (1, 2), (85, 95)),
    "phone": _Draws((0.5, 1.6), (0.5, 4), (70, 95)),
}


class Halved(NamedTuple):
    lr: UInt8[np.ndarray, "h w 3"]
    record: dict[str, Any]
    """The kind, and the numbers that were drawn."""


def rng_of(name: str) -> np.random.Generator:
    """A generator that is a function of a picture's name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.default_rng(seed)


def halve(hr: UInt8[np.ndarray, "rows cols 3"], kind: Degradation, name: str) -> Halved:
    """Make LR of HR.

    Args:
        name: seeds every draw.
    """
    if kind != "bicubic":
        halved = camera(hr, rng_of(name), kind)
        return halved._replace(record={"kind": kind, **halved.record})
    picture = torch.from_numpy(np.ascontiguousarray(hr.transpose(2, 0, 1))).float()[None]
    half = bicubic_down(picture)[0].permute(1, 2, 0).contiguous().numpy()
    return Halved(to_uint8(half), {"kind": kind})


def camera(
    hr: UInt8[np.ndarray, "rows cols 3"], rng: np.random.Generator, lens: Lens = "camera"
) -> Halved:
    """HR as a lens, a sensor and a file of half the resolution give it; see `Degradation`."""
    draws = _LENSES[lens]
    blur_px, noise = rng.uniform(*draws.blur_px), rng.uniform(*draws.noise)
    quality = int(rng.integers(draws.quality[0], draws.quality[1], endpoint=True))
    blurred = cv2.GaussianBlur(hr.astype(np.float32), (0, 0), blur_px)
    lr = cv2.resize(blurred, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    lr = to_uint8(lr + rng.normal(0, noise, lr.shape))
    _, jpeg = cv2.imencode(".jpg", lr[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)
    record = {"lr_blur_px": blur_px, "lr_noise": noise, "lr_jpeg_quality": quality}
    return Halved(np.ascontiguousarray(decoded[..., ::-1]), record)


def to_uint8(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
