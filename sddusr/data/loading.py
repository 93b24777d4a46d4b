"""From the files of one source to a whole triplet, whatever of it has to be made first."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from sddusr import storage
from sddusr.config import SCALE
from sddusr.data import sample_images
from sddusr.data.degradation import Degradation, halve
from sddusr.data.detail import detail_map, detail_quantiles
from sddusr.data.plausibility import check_belongs_together
from sddusr.data.schema import check_sizes
from sddusr.data.source_files import Source
from sddusr.geometry.box import HR_PER_CELL, Box, centered, check_box, crop, snap_box, whole
from sddusr.imaging.images import Picture, read_rgb
from sddusr.registration.pairing import PairConfig, PreparedPair, prepare_pair, zoom_guess
from sddusr.registration.register import NotRegistered
from sddusr.registration.residual import (
    RefRegistration,
    enlarged_center,
    fill,
    register_ref,
)
from sddusr.registration.visible import visible_mask
from sddusr.types import Triplet


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """How a triplet is made of a wide and a tele picture."""

    degradation: Degradation = "bicubic"
    pair: PairConfig = field(default_factory=PairConfig)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all shards of a run share.

    The recipe says how a row is made; `quarantine`, `max_pixels` and `checked` decide which rows
    there are.
    """

    root: str
    """Folder of the dataset; provenance names files relative to it. Empty for the samples."""
    out: str
    """Folder of the shards."""
    quarantine: bool
    """Set triplets aside that cannot be used, rather than end at the first."""
    max_pixels: int
    """Pictures with more are refused."""
    checked: bool = True
    """Refuse triplets whose pictures do not belong together."""


class _Members(NamedTuple):
    lr: UInt8[np.ndarray, "h w 3"]
    ref: UInt8[np.ndarray, "rows cols 3"]
    hr: UInt8[np.ndarray, "2*h 2*w 3"]
    box: Box
    provenance: dict[str, Any]
    visible: Bool[np.ndarray, "rows cols"] | None = None
    """False where Ref shows nothing; None where its file has no alpha."""


def load_triplet(
    source: Source,
    job: Job,
    pairing: Pairing | None = None,
    register: RefRegistration = "none",
) -> Triplet:
    """Read one whole triplet, or make it, register its Ref and measure its detail.

    A `val` triplet whose Ref covers the whole picture keeps its centre half along each axis, so
    that validation asks what a phone will ask; a test triplet stays as the dataset gives it, unless
    its box is `half`.

    Raises:
        FileNotFoundError, ValueError: see `images.read_rgb` and `pairing.prepare_pair`; or sizes
            that do not belong together.
    """
    if source.box == "registered":
        members = _paired(source, job, pairing or Pairing())
    else:
        members = (_synthesize if source.ref is None else _read)(source, job)
        members = _registered(members, register, source.id)
    detail = detail_map(members.hr)
    triplet = Triplet(
        id=source.id,
        scene=source.scene,
        split=source.split,
        detail=detail,
        detail_quantiles=detail_quantiles(detail),
        lr=members.lr,
        ref=members.ref,
        hr=members.hr,
        center_box=members.box,
        provenance=members.provenance,
    )
    check_sizes(triplet)
    return _narrowed(triplet) if source.split == "val" or source.box == "half" else triplet


class LoadedPair(NamedTuple):
    """A wide and a tele picture as their files give them."""

    id: str
    wide: Picture
    """Cropped at the right and below to whole cells of the matching grid."""
    tele: Picture
    """With alpha, if it has any."""

    def prepare(self, config: PairConfig) -> PreparedPair:
        """Register the tele picture, the wide one being HR.

        Raises:
            NotRegistered: see `pairing.prepare_pair`.
        """
        guess = zoom_guess(self.wide, self.tele)
        wide, tele = self.wide.pixels, self.tele.pixels
        try:
            return prepare_pair(
                wide, tele, 1, zoom_guess=guess, config=config, alpha=self.tele.alpha
            )
        except NotRegistered as error:
            raise NotRegistered(f"{self.id}: {error}") from error


def load_pair(source: Source, job: Job) -> LoadedPair:
    """Read a wide and a tele picture.

    Raises:
        FileNotFoundError, ValueError: see `images.read_rgb`.
    """
    files = files_of(source)
    wide = read_rgb(files["hr"], job.max_pixels)
    tele = read_rgb(files["ref"], job.max_pixels, keep_alpha=True)
    height, width = (side // HR_PER_CELL * HR_PER_CELL for side in wide.pixels.shape[:2])
    if not (height and width):
        rows, cols = wide.pixels.shape[:2]
        raise ValueError(f"{files['hr']}: {rows}x{cols}, need {HR_PER_CELL} pixels a side or more")
    pixels = np.ascontiguousarray(wide.pixels[:height, :width])
    return LoadedPair(source.id, wide._replace(pixels=pixels), tele)


def _paired(source: Source, job: Job, pairing: Pairing) -> _Members:
    pair = load_pair(source, job)
    prepared = pair.prepare(pairing.pair)
    hr = pair.wide.pixels
    lr, degradation = halve(hr, pairing.degradation, source.id)
    valid_share = float(prepared.valid.mean())
    provenance = _files_record(source, job, {"hr": pair.wide, "ref": pair.tele}) | {
        "registration": prepared.record | {"valid_share": valid_share},
        "degradation": degradation,
    }
    ref = fill(prepared.ref, enlarged_center(lr, prepared.box), prepared.valid)
    return _Members(lr, ref, hr, prepared.box, provenance)


def _registered(members: _Members, method: RefRegistration, id: str) -> _Members:
    """The same with Ref registered to the centre, recorded in the provenance."""
    if method == "none":
        return members
    check_box(members.box, members.hr.shape, id)
    if members.ref.shape[:2] != (members.box.height, members.box.width):
        return members  # `check_sizes` says so
    try:
        found = register_ref(members.lr, members.ref, members.box, method, visible=members.visible)
    except NotRegistered as error:
        raise NotRegistered(f"{id}: {error}") from error
    return members._replace(
        ref=found.ref, provenance=members.provenance | {"registration": found.record}
    )


def _read(source: Source, job: Job) -> _Members:
    pictures = {
        name: read_rgb(place, job.max_pixels, keep_alpha=name == "ref")
        for name, place in files_of(source).items()
    }
    if source.halved:
        pictures = {name: picture if name == "lr" else _halved(picture, files_of(source)[name])
                    for name, picture in pictures.items()}  # fmt: skip
    lr, hr, ref = (pictures[member].pixels for member in ("lr", "hr", "ref"))
    provenance = _files_record(source, job, pictures) | (
        {"halved": ["hr", "ref"]} if source.halved else {}
    )
    members = _Members(lr, ref, hr, _box(source, hr.shape, ref.shape), provenance)
    if hr.shape[:2] != (SCALE * lr.shape[0], SCALE * lr.shape[1]):
        return members  # `check_sizes` says so
    if pictures["ref"].alpha is not None:
        members = _covered(members, pictures["ref"].alpha, files_of(source)["ref"])
    if job.checked:
        names = files_of(source)
        is_test = source.split == "test"
        check_belongs_together(names, lr, members.ref, hr, members.box, allow_flat=is_test)
    return members


def _covered(members: _Members, alpha: UInt8[np.ndarray, "rows cols"], name: str) -> _Members:
    """The same with the enlarged centre, which adds no detail, where Ref is transparent."""
    check_box(members.box, members.hr.shape, name)
    if members.ref.shape[:2] != (members.box.height, members.box.width):
        return members  # `check_sizes` says so
    visible = visible_mask(members.ref, alpha)
    if not visible.any():
        raise ValueError(f"{name}: transparent everywhere; take a picture that shows something")
    return members._replace(
        ref=fill(members.ref, enlarged_center(members.lr, members.box), visible),
        visible=visible,
        provenance=members.provenance | {"visible_share": float(visible.mean())},
    )


def _halved(picture: Picture, place: str) -> Picture:
    """The means of each 2x2 pixels, as a sensor of half the density sees them."""
    rows, cols = picture.pixels.shape[:2]
    if rows % 2 or cols % 2:
        raise ValueError(f"{place}: {rows}x{cols}, need even sides to halve")
    size = (cols // 2, rows // 2)
    alpha = picture.alpha
    if alpha is not None:
        alpha = alpha.reshape(rows // 2, 2, cols // 2, 2).min((1, 3))
    pixels = cv2.resize(picture.pixels, size, interpolation=cv2.INTER_AREA)
    return picture._replace(pixels=pixels, alpha=alpha)


def _synthesize(source: Source, job: Job) -> _Members:
    photo = read_rgb(source.hr, job.max_pixels)
    lr, ref, hr, box, record = sample_images.degrade(
        photo.pixels, source.id, full_ref=source.box == "whole"
    )
    provenance = _files_record(source, job, {"hr": photo}) | {"degradation": record}
    return _Members(lr, ref, hr, box, provenance)


def _files_record(source: Source, job: Job, pictures: dict[str, Picture]) -> dict[str, Any]:
    files = files_of(source)
    return {
        member: {"file": storage.relative(files[member], job.root), "sha256": picture.sha256}
        for member, picture in pictures.items()
    }


def _box(source: Source, hr_shape: tuple[int, ...], ref_shape: tuple[int, ...]) -> Box:
    if isinstance(source.box, Box):
        return source.box
    everything = whole(*hr_shape[:2])
    rows, cols = ref_shape[:2]
    return everything if source.box in ("whole", "half") else centered(rows, cols, everything)


def _narrowed(triplet: Triplet) -> Triplet:
    everything = whole(*triplet.hr.shape[:2])
    if triplet.center_box != everything:
        return triplet
    half = snap_box(centered(everything.height // 2, everything.width // 2, everything))
    return triplet._replace(
        ref=crop(triplet.ref, half),
        center_box=half,
        provenance=triplet.provenance | {"ref_cut_to": list(half)},
    )


def files_of(source: Source) -> dict[str, str]:
    """Member -> place of the files that a source has."""
    members = {"lr": source.lr, "hr": source.hr, "ref": source.ref}
    return {member: place for member, place in members.items() if place is not None}
