"""Triplets made from photographs that ship inside scikit-image and scikit-learn.

They let everything run without a download. The pictures are real, the two lenses are not; what
`degrade` does to them, all drawn from a seed that is a hash of the picture's name:

HR   cropped to multiples of 4 pixels, so that LR is even and every pixel lies in a whole cell of
     the matching grid.
LR   as `degradation.camera` makes it: blur, 2x2 means, noise, JPEG.
Ref  a homography that moves each corner by up to 2 HR pixels in y and x (what registration leaves
     over), gain 0.96 to 1.04 and offset -4 to 4 of 255 for each channel (another sensor), Gaussian
     noise of σ 0.5 to 1. It covers the whole picture in training, so that windows and crops can
     roam; in `val` and `test` it is half the picture along each axis, up to a sixteenth off the
     centre and at any phase of the matching grid, as real boxes are.

Microscope, moon and retina pictures are left out: the largest would fill half of every epoch.
"""

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from sddusr.data.degradation import Lens, camera, rng_of, to_uint8
from sddusr.geometry.box import HR_PER_CELL, Box, centered, crop, whole

_SKIMAGE = ("skimage", "data")
_SKLEARN = ("sklearn", "datasets/images")

PICTURES: dict[str, dict[str, tuple[str, str]]] = {
    "train": {
        "astronaut.png": _SKIMAGE,
        "brick.png": _SKIMAGE,
        "chelsea.png": _SKIMAGE,
        "grass.png": _SKIMAGE,
        "gravel.png": _SKIMAGE,
        "ihc.png": _SKIMAGE,
        "motorcycle_left.png": _SKIMAGE,
        "china.jpg": _SKLEARN,
    },
    "val": {"rocket.jpg": _SKIMAGE},
    "test": {"camera.png": _SKIMAGE, "coffee.png": _SKIMAGE, "flower.jpg": _SKLEARN},
}
"""Split -> file name -> (package, folder inside it). A held-out picture never trains."""


class Degraded(NamedTuple):
    """A triplet made of one photograph."""

    lr: UInt8[np.ndarray, "h w 3"]
    ref: UInt8[np.ndarray, "rows cols 3"]
    hr: UInt8[np.ndarray, "2*h 2*w 3"]
    box: Box
    record: dict[str, Any]
    """The numbers that were drawn."""


def find(split: str) -> dict[str, str]:
    """File name -> path of a split's photographs, in the order of their names.

    Raises:
        FileNotFoundError: a package that is missing or no longer ships the file.
    """
    found = {}
    for name, (package, folder) in sorted(PICTURES[split].items()):
        spec = importlib.util.find_spec(package)
        path = Path(spec.origin or "").parent / folder / name if spec else None
        if path is None or not path.is_file():
            raise FileNotFoundError(
                f"{package} has no {folder}/{name}; install scikit-image and scikit-learn as "
                "pyproject.toml asks"
            )
        found[name] = str(path)
    return found


def degrade(
    photo: UInt8[np.ndarray, "rows cols 3"], name: str, *, full_ref: bool, lens: Lens = "camera"
) -> Degraded:
    """Make LR and Ref of a photograph; see the top of this file for the numbers.

    Args:
        name: seeds every draw.
        full_ref: Ref covers the whole picture (training), not its centre half.
        lens: what LR is made with.
    """
    rng = rng_of(name)
    height, width = (side // HR_PER_CELL * HR_PER_CELL for side in photo.shape[:2])
    hr = np.ascontiguousarray(photo[:height, :width])
    lr, wide = camera(hr, rng, lens)
    ref, tele = tele_view(hr, rng)
    box = whole(height, width) if full_ref else _center_box(height, width, rng)
    return Degraded(lr, np.ascontiguousarray(crop(ref, box)), hr, box, wide | tele)


def tele_view(
    hr: UInt8[np.ndarray, "rows cols 3"], rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "rows cols 3"], dict[str, Any]]:
    """HR as another camera sees it (see the top of this file), and the numbers that were drawn."""
    height, width = hr.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    shifts_px = rng.uniform(-2, 2, (4, 2)).astype(np.float32)
    gain, offset, noise = rng.uniform(0.96, 1.04, 3), rng.uniform(-4, 4, 3), rng.uniform(0.5, 1)
    homography = cv2.getPerspectiveTransform(corners, corners + shifts_px)
    warped = cv2.warpPerspective(
        hr.astype(np.float32),
        homography,
        (width, height),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    ref = to_uint8(warped * gain + offset + rng.normal(0, noise, hr.shape))
    record = {
        "ref_corner_shifts_px": shifts_px.tolist(),
        "ref_gain": gain.tolist(),
        "ref_offset": offset.tolist(),
        "ref_noise": noise,
    }
    return ref, record


def _center_box(height: int, width: int, rng: np.random.Generator) -> Box:
    box = centered(height // 2, width // 2, whole(height, width))
    dy, dx = (int(rng.integers(-side // 16, side // 16 + 1)) for side in (height, width))
    return Box(box.y0 + dy, box.y1 + dy, box.x0 + dx, box.x1 + dx)
