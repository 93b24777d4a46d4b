"""How well pairs are registered: real ones, synthetic ones with known truth, unrelated ones.

Without arguments, as in `make bench`, the photographs are those inside scikit-image, and there are
no real pairs. `--photos FOLDER` takes photographs below a folder; `--pairs FOLDER` takes a folder
of folders that hold wide.*, tele.* (or hr.*) and info.json with a measured homography.
"""

import argparse
import itertools
import json
import resource
import time
from pathlib import Path

import cv2
import numpy as np
import skimage

from sddusr.config.arguments import parse_args
from sddusr.geometry.box import crop
from sddusr.geometry.homography import corner_points, resizing, transform
from sddusr.imaging.images import read_rgb
from sddusr.registration.pairing import PreparedPair, prepare_pair
from sddusr.registration.register import NotRegistered

MAX_SIDE = 2400
ZOOMS = 1.3, 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--num", type=int, default=2, help="synthetic pairs of each photograph")
    parser.add_argument("--unrelated", type=int, default=0, help="unrelated pairs")
    parser.add_argument("--large", action="store_true", help="a pair of 12 megapixels")
    given = parse_args(parser)
    if given.pairs:
        real_pairs(given.pairs)
    photos = _photos(given.photos)
    if given.num:
        synthetic(photos, given.num)
    if given.unrelated:
        unrelated(photos, given.unrelated)
    if given.large:
        large(photos)


def real_pairs(root: Path) -> None:
    """Corner distance to info.json's homography, and Ref beside HR where there is HR."""
    for folder in sorted(path.parent for path in root.glob("*/info.json")):
        wide, tele, truth, hr = _real_pair(folder)
        start = time.perf_counter()
        try:
            made = prepare_pair(wide, tele, 2)
        except NotRegistered as error:
            print(f"{folder.name:<30} REFUSED {error}")
            continue
        took, record = time.perf_counter() - start, made.record
        beside = f"Ref {_psnr(made, hr):.2f} dB" if hr is not None else ""
        followed = "flow" if record["flow"]["followed"] else "plane"
        print(
            f"{folder.name:<30} corners {_corner_error(made, truth, tele.shape):6.2f} wide px, "
            f"zoom {record['zoom']:.3f}, {record['num_inliers']}/{record['num_matches']} agree, "
            f"ncc {record['ncc_before']:.3f} to {record['ncc_after']:.3f} ({followed}), colour "
            f"{record['color']['error_before']:.4f} to {record['color']['error_after']:.4f}, "
            f"{took:.1f} s {beside}"
        )


def synthetic(photos: dict[str, np.ndarray], num: int) -> None:
    errors, num_refused = [], 0
    for index, (name, photo) in enumerate(photos.items()):
        for seed in range(num):
            wide, tele, truth = make_pair(photo, np.random.default_rng([index, seed]))
            try:
                made = prepare_pair(wide, tele, 2)
            except NotRegistered as error:
                print(f"{name} {wide.shape[0]}x{wide.shape[1]} px REFUSED {error}")
                num_refused += 1
                continue
            errors.append(2 * _corner_error(made, truth, tele.shape))
    median, high = np.quantile(errors, [0.5, 0.95])
    print(
        f"{len(errors)} synthetic pairs registered, {num_refused} refused; worst corner in HR px: "
        f"median {median:.3f}, 95th percentile {high:.3f}, most {max(errors):.3f}"
    )


def unrelated(photos: dict[str, np.ndarray], num: int) -> None:
    made = [make_pair(p, np.random.default_rng([i, 99])) for i, p in enumerate(photos.values())]
    orders = np.random.default_rng(0).permutation(list(itertools.permutations(range(len(made)), 2)))
    accepted = []
    for one, other in orders[:num]:
        try:
            prepare_pair(made[one][0], made[other][1], 2)
        except NotRegistered:
            continue
        accepted.append((list(photos)[one], list(photos)[other]))
    print(f"{len(orders[:num])} unrelated pairs, {len(accepted)} accepted {accepted}")


def large(photos: dict[str, np.ndarray]) -> None:
    photo = max(photos.values(), key=lambda picture: picture.size)
    photo = cv2.resize(photo, (4032, 3024), interpolation=cv2.INTER_CUBIC)
    tele = cv2.resize(photo[756:2268, 1008:3024], (4032, 3024), interpolation=cv2.INTER_CUBIC)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    made = prepare_pair(photo, tele, 2)
    took = time.perf_counter() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"12 megapixels twice to {made.ref.shape}: {took:.1f} s, {grown / 2**20:.2f} GiB more")


def make_pair(
    photo: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A wide and a tele picture of a photograph, and the homography between them.

    Any zoom, up to 15 % off the middle, turned by up to 5 degrees, corners moved by 1 %, upright or
    not; other colours, blur, noise and JPEG quality.
    """
    if rng.random() < 0.3:
        photo = np.ascontiguousarray(np.rot90(photo))
    zoom = float(np.exp(rng.uniform(*np.log(ZOOMS))))
    height, width = (int(side / max(2, zoom)) for side in photo.shape[:2])
    wide = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
    to_photo = resizing(photo.shape[0] / height, photo.shape[1] / width)
    shape = tuple(int(side * rng.uniform(0.85, 1)) for side in (height, width))
    truth = _random_view(shape, (height, width), zoom, rng)
    to_large = to_photo @ truth @ resizing(0.5, 0.5)
    tele = cv2.warpPerspective(
        photo, np.linalg.inv(to_large), (2 * shape[1], 2 * shape[0]), flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    tele = cv2.resize(tele, shape[::-1], interpolation=cv2.INTER_AREA)
    mixed = np.diag(rng.uniform(0.8, 1.25, 3)) + rng.uniform(-0.06, 0.06, (3, 3))
    colored = tele @ mixed.T + rng.uniform(-12, 12, 3)
    return _taken(wide, rng), _taken(colored, rng), truth


def _random_view(
    shape: tuple[int, ...], wide_shape: tuple[int, int], zoom: float, rng: np.random.Generator
) -> np.ndarray:
    corners = corner_points(shape)
    angle = np.deg2rad(rng.uniform(-5, 5))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    size, wide_size = np.array(shape[::-1]) / zoom, np.array(wide_shape[::-1])
    room = 0.45 * (wide_size - size)
    shift = np.clip(rng.uniform(-0.15, 0.15, 2) * wide_size, -room, room)
    placed = (corners - corners.mean(0)) @ turn.T + (wide_size - 1) / 2 + shift
    placed += rng.uniform(-0.01, 0.01, (4, 2)) * size
    ends = (corners.astype(np.float32), placed.astype(np.float32))
    return cv2.getPerspectiveTransform(*ends)


def _taken(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    blurred = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), rng.uniform(0.05, 0.8))
    noisy = np.clip(blurred + rng.normal(0, rng.uniform(0, 5), picture.shape), 0, 255)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(80, 98))]
    return cv2.imdecode(cv2.imencode(".jpg", noisy.astype(np.uint8), quality)[1], 1)


def _photos(root: Path | None) -> dict[str, np.ndarray]:
    if root is None:
        names = ("astronaut", "coffee", "cat", "rocket")
        return {name: getattr(skimage.data, name)() for name in names}
    places = sorted(path for path in root.rglob("*") if path.suffix in (".jpg", ".png"))
    return {path.stem: _sharp(read_rgb(str(path)).pixels) for path in places}


def _sharp(photo: np.ndarray) -> np.ndarray:
    """Large files are soft at their own size."""
    if max(photo.shape) < 1000:
        return photo
    scale = min(0.5, MAX_SIDE / max(photo.shape))
    return cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _real_pair(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Wide, tele, tele-to-wide homography and HR; those of one density become LR and a centre."""
    info = json.loads((folder / "info.json").read_text())
    files = {name: folder / entry["file"] for name, entry in info["files"].items()}
    measured = info.get("registration_tele_to_wide") or info["registration_hr_to_wide"]
    truth = np.array(measured["H_tele_to_wide"])
    wide = read_rgb(str(files["wide"])).pixels
    tele = read_rgb(str(files["hr" if "hr" in files else "tele"])).pixels
    if measured["pixel_scale_tele_over_wide"] > 1.2:
        return wide, tele, truth, None
    height, width = (side // 4 * 4 for side in wide.shape[:2])
    hr = (tele if "hr" in files else wide)[:height, :width]
    lr = cv2.resize(wide[:height, :width], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    y0, x0 = height // 4, width // 4
    shift = np.array([[1, 0, x0], [0, 1, y0], [0, 0, 1.0]])
    center = np.ascontiguousarray(tele[y0 : y0 + height // 2, x0 : x0 + width // 2])
    return lr, center, np.linalg.inv(resizing(2.0, 2.0)) @ truth @ shift, hr


def _corner_error(made: PreparedPair, truth: np.ndarray, tele_shape: tuple[int, ...]) -> float:
    corners, found = corner_points(tele_shape), np.array(made.record["homography"])
    apart = transform(found, corners) - transform(truth, corners)
    return float(np.linalg.norm(apart, axis=1).max())


def _psnr(made: PreparedPair, hr: np.ndarray) -> float:
    error = made.ref.astype(np.float64) - crop(hr, made.box)
    return 10 * np.log10(255**2 / np.mean(error**2))


if __name__ == "__main__":
    main()
