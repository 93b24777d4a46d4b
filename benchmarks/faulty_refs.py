"""What faulty tele pictures do to a network's result, against the same network without Ref.

python benchmarks/faulty_refs.py --checkpoint CHECKPOINT --data SHARDS... --out results.json

Every test picture is cut to its centre and a margin. Each fault is done to its Ref, which is then
registered as any other, or left out where registration says so. Decibels are gains over the same
network without Ref, in the region concerned: the object, stamp or bar, else the whole box; `rest`
is what remains of the box, `luma` and `chroma` are the gains of each alone. A row lists the mean,
the minimum, and the share of scenes above -0.1 dB. Two rows change the colours of all images alike,
with a good Ref: their gains belong beside those of `none`.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from sddusr import pretrained
from sddusr.checkpoint import load_model
from sddusr.config import LR_PER_CELL, SCALE
from sddusr.config.arguments import parse_args
from sddusr.data.dataset import ShardSet
from sddusr.data.degradation import rng_of, to_uint8
from sddusr.geometry.box import Box, crop, snap_box
from sddusr.inference import super_resolve
from sddusr.model.filters import LUMA
from sddusr.model.sddusr import SDDuSR
from sddusr.registration.residual import enlarged_center, register_ref
from sddusr.registration.visible import visible_mask
from sddusr.types import Triplet

MARGIN_PX = 32
"""LR pixels around the centre that are kept."""
MAX_CENTER_PX = 224
"""LR pixels a side of the centre that are kept at most."""


class Faulty(NamedTuple):
    ref: np.ndarray
    region: np.ndarray | None = None
    """Where the fault is; None: everywhere."""
    alpha: np.ndarray | None = None
    """0 where Ref is transparent; None: nowhere."""


Fault = Callable[[np.ndarray, np.ndarray, np.random.Generator], Faulty]


def defocus(sigma: float) -> Fault:
    return lambda ref, _, rng: Faulty(cv2.GaussianBlur(ref, (0, 0), sigma))


def noise(sigma: float) -> Fault:
    return lambda ref, _, rng: Faulty(to_uint8(ref + rng.normal(0, sigma, ref.shape)))


def jpeg(quality: int) -> Fault:
    def compress(ref: np.ndarray, _: np.ndarray, rng: np.random.Generator) -> Faulty:
        data = cv2.imencode(".jpg", ref, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return Faulty(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8))

    return compress


def underexpose(ref: np.ndarray, _: np.ndarray, rng: np.random.Generator) -> Faulty:
    return Faulty(to_uint8(0.12 * ref + rng.normal(0, 0.5, ref.shape)))


def zoom(ref: np.ndarray, center: np.ndarray, rng: np.random.Generator) -> Faulty:
    return Faulty(center)


def moved_object(ref: np.ndarray, _: np.ndarray, rng: np.random.Generator) -> Faulty:
    """Something of the picture itself, where it was not."""
    height, width = ref.shape[:2]
    region = np.zeros((height, width), np.uint8)
    middle = int(width * rng.uniform(0.3, 0.7)), int(height * rng.uniform(0.3, 0.7))
    cv2.ellipse(region, middle, (width // 5, height // 5), 0, 0, 360, 1, -1)
    other = np.roll(ref[::-1], width // 3, 1)
    return Faulty(np.where(region[..., None] > 0, other, ref), region > 0)


def stamp(ref: np.ndarray, _: np.ndarray, rng: np.random.Generator) -> Faulty:
    stamped, height = ref.copy(), ref.shape[0]
    place, color = (ref.shape[1] // 3, height - height // 8), (255, 140, 30)
    cv2.putText(stamped, "24.12.2025", place, cv2.FONT_HERSHEY_SIMPLEX, 0.9, color, 2, cv2.LINE_AA)
    changed = (stamped != ref).any(2).astype(np.uint8)
    return Faulty(stamped, cv2.dilate(changed, np.ones((9, 9), np.uint8)) > 0)


def bars(ref: np.ndarray, _: np.ndarray, rng: np.random.Generator) -> Faulty:
    barred, height = ref.copy(), ref.shape[0] // 8
    barred[:height] = barred[-height:] = 0
    region = np.zeros(ref.shape[:2], bool)
    region[:height] = region[-height:] = True
    return Faulty(barred, region)


def transparent(ref: np.ndarray, _: np.ndarray, rng: np.random.Generator) -> Faulty:
    """A hole and two corners; below them is what editors leave there, white."""
    alpha, (height, width) = np.full(ref.shape[:2], 255, np.uint8), ref.shape[:2]
    middle = int(width * rng.uniform(0.3, 0.7)), int(height * rng.uniform(0.3, 0.7))
    cv2.ellipse(alpha, middle, (width // 6, height // 6), 0, 0, 360, 0, -1)
    for corner in ((0, 0), (width - 1, height - 1)):
        cv2.circle(alpha, corner, height // 5, 0, -1)
    region = alpha == 0
    return Faulty(np.where(region[..., None], np.uint8(255), ref), region, alpha)


FAULTS: dict[str, Fault] = {
    "none": lambda ref, _, rng: Faulty(ref),
    "defocus 2": defocus(2),
    "defocus 3.5": defocus(3.5),
    "defocus 5": defocus(5),
    "noise 5": noise(5),
    "noise 15": noise(15),
    "noise 30": noise(30),
    "jpeg 20": jpeg(20),
    "digital zoom": zoom,
    "exposure 12 %": underexpose,
    "moved object": moved_object,
    "stamp": stamp,
    "bars": bars,
    "alpha": transparent,
}


Recolor = Callable[[np.ndarray], np.ndarray]


def permute(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[..., [1, 2, 0]])


def saturate(picture: np.ndarray) -> np.ndarray:
    """By a half, about the luma."""
    luma = picture @ LUMA
    return to_uint8(luma[..., None] + 1.5 * (picture - luma[..., None]))


RECOLORED: dict[str, Recolor] = {"permuted colours": permute, "saturated colours": saturate}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, help="a folder, or a name: compact")
    parser.add_argument("--data", nargs="+", required=True, help="folders of shards")
    parser.add_argument("--out", type=Path, help="JSON with every scene's figures")
    parser.add_argument("--limit", type=int, help="scenes of each folder")
    given = parse_args(parser)
    model = load_model(pretrained.NAMES.get(given.checkpoint, given.checkpoint))
    figures = {}
    for root in given.data:
        shards = ShardSet(root)
        scenes = [_cut(shards.read(row)) for row in shards.rows("test")[: given.limit]]
        figures[root] = _measure_all(model, scenes)
        if given.out:
            given.out.write_text(json.dumps(figures, indent=1))
        _show(Path(root).name, figures[root])


def _measure_all(model: SDDuSR, scenes: list[Triplet]) -> dict[str, list[dict[str, float]]]:
    """Each fault's rows, a scene at a time."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in (*FAULTS, *RECOLORED)}
    for number, scene in enumerate(scenes, 1):
        without = _without_ref(model, scene)
        for name, fault in FAULTS.items():
            rows[name].append(_measure(model, scene, fault, without))
        for name, recolor in RECOLORED.items():
            recolored = _recolored(scene, recolor)
            without = _without_ref(model, recolored)
            rows[name].append(_measure(model, recolored, FAULTS["none"], without))
        print(f"{number}/{len(scenes)} scenes: {scene.id}", flush=True)
    return rows


def _cut(triplet: Triplet) -> Triplet:
    """The centre of a picture and a margin, on the matching grid."""
    box = snap_box(triplet.center_box)
    side = SCALE * MAX_CENTER_PX
    unit = SCALE * LR_PER_CELL
    height, width = (min(x, side) // unit * unit for x in (box.height, box.width))
    y0 = box.y0 + (box.height - height) // 2 // unit * unit
    x0 = box.x0 + (box.width - width) // 2 // unit * unit
    inner = Box(y0, y0 + height, x0, x0 + width)
    margin, (rows, cols) = SCALE * MARGIN_PX, triplet.hr.shape[:2]
    outer = Box(
        max(inner.y0 - margin, 0),
        min(inner.y1 + margin, rows),
        max(inner.x0 - margin, 0),
        min(inner.x1 + margin, cols),
    )
    in_ref = inner.shifted(-triplet.center_box.y0, -triplet.center_box.x0)
    return triplet._replace(
        lr=np.ascontiguousarray(crop(triplet.lr, Box(*(edge // SCALE for edge in outer)))),
        hr=np.ascontiguousarray(crop(triplet.hr, outer)),
        ref=np.ascontiguousarray(crop(triplet.ref, in_ref)),
        center_box=inner.shifted(-outer.y0, -outer.x0),
    )


def _recolored(scene: Triplet, recolor: Recolor) -> Triplet:
    return scene._replace(lr=recolor(scene.lr), ref=recolor(scene.ref), hr=recolor(scene.hr))


def _without_ref(model: SDDuSR, scene: Triplet) -> np.ndarray:
    return super_resolve(model, scene.lr, scene.ref, scene.center_box, without_ref=True).sr


def _measure(model: SDDuSR, scene: Triplet, fault: Fault, without: np.ndarray) -> dict[str, float]:
    box = scene.center_box
    made = fault(scene.ref, enlarged_center(scene.lr, box), rng_of(scene.id))
    visible = None if made.alpha is None else visible_mask(made.ref, made.alpha)
    registered = register_ref(scene.lr, made.ref, box, visible=visible)
    is_left_out = bool(registered.record["left_out"])
    with_ref = super_resolve(model, scene.lr, registered.ref, box, without_ref=is_left_out)
    truth = crop(scene.hr, box).astype(np.float32) / 255
    off, off_without = (crop(sr, box) - truth for sr in (with_ref.sr, without))
    everywhere = np.ones(truth.shape[:2], bool)
    region = everywhere if made.region is None else made.region
    row = _gains(off[region], off_without[region])
    if made.region is not None:
        row["rest"] = _gains(off[~region], off_without[~region])["gain"]
    if with_ref.trust is not None:
        row["trust"] = float(crop(with_ref.trust, Box(*(edge // 4 for edge in box))).mean())
    return row


def _gains(off: np.ndarray, off_without: np.ndarray) -> dict[str, float]:
    """Gains in PSNR over the result without Ref: all colours, luma, chroma."""
    luma, luma_without = off @ LUMA, off_without @ LUMA
    chroma, chroma_without = off - luma[:, None], off_without - luma_without[:, None]
    return {
        "gain": _decibels(off_without) - _decibels(off),
        "luma": _decibels(luma_without) - _decibels(luma),
        "chroma": _decibels(chroma_without) - _decibels(chroma),
    }


def _decibels(off: np.ndarray) -> float:
    return float(10 * np.log10(np.square(off).mean()))


def _show(name: str, figures: dict[str, list[dict[str, float]]]) -> None:
    print(f"\n{name}\n| fault | mean | worst | above -0.1 dB | the rest | luma | chroma | trust |")
    print("|---|---|---|---|---|---|---|---|")
    for fault, rows in figures.items():
        gains = np.array([row["gain"] for row in rows])
        others = [
            f"{np.mean([row.get(key, 0) for row in rows]):+.2f}"
            if any(key in r for r in rows)
            else ""
            for key in ("rest", "luma", "chroma", "trust")
        ]
        share = f"{(gains > -0.1).mean():.0%}"
        print(f"| {fault} | {gains.mean():+.2f} | {gains.min():+.2f} | {share} | "
              f"{' | '.join(others)} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
