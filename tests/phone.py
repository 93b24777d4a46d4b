"""Pictures as a phone with two lenses would take them, of a place whose truth is known."""

from pathlib import Path

import cv2
import numpy as np

from sddusr.geometry.box import Box
from sddusr.registration.pairing import PairConfig
from sddusr.registration.register import RegistrationConfig
from tests.conftest import textured

QUICK = PairConfig(registration=RegistrationConfig(working_px=320 * 400, max_keypoints=600))
"""Registration that takes these small pictures as they are."""

VIEW = Box(132, 452, 180, 580)
"""What the tele lens sees of the scene; the wide lens sees all of its 640x800 pixels, halved."""


def scene(seed: int) -> np.ndarray:
    """A textured picture with shapes to hold on to."""
    picture = textured(640, 800, seed)
    rng = np.random.default_rng(seed)
    for _ in range(120):
        y, x = int(rng.integers(640)), int(rng.integers(800))
        color = tuple(int(value) for value in rng.integers(256, size=3))
        cv2.circle(picture, (x, y), int(rng.integers(3, 18)), color, -1)
    return picture


def wide_of(scene: np.ndarray) -> np.ndarray:
    return cv2.resize(scene, (400, 320), interpolation=cv2.INTER_AREA)


def tele_of(scene: np.ndarray, gain: tuple[float, float, float] = (0.9, 1.0, 0.8)) -> np.ndarray:
    """Half of the view along each axis, at the scene's own density, in other colours."""
    y0, y1, x0, x1 = VIEW
    return np.clip(scene[y0:y1, x0:x1] * np.array(gain), 0, 255).astype(np.uint8)


def save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


def save_pair(
    top: Path, stem: str, seed: int, folders: tuple[str, str] = ("wide", "tele"), *, other: int = -1
) -> None:
    """Write a pair; `other` seeds another place for the tele picture."""
    save(top / folders[0] / f"{stem}.png", wide_of(scene(seed)))
    save(top / folders[1] / f"{stem}.png", tele_of(scene(other if other >= 0 else seed)))
