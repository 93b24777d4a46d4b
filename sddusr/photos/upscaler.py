"""Two pictures as a camera wrote them -> the result, its record and its explanation."""

import json
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8, UInt16
from numpy.typing import DTypeLike

from sddusr import storage
from sddusr.config import SCALE
from sddusr.geometry.box import Box, centered, check_box, whole
from sddusr.imaging.arrays import enlarge_bicubic
from sddusr.imaging.images import (
    NO_METADATA,
    Picture,
    check_colors,
    check_output,
    describe_lost,
    read_picture,
    write_picture,
)
from sddusr.inference.result import Upscaled
from sddusr.photos.engines import Engine, open_engine
from sddusr.photos.jobs import Job, Settings, explanation_place, record_place
from sddusr.photos.sidecar import build_record, describe, warn_of_ref
from sddusr.registration.pairing import PairConfig, PreparedPair, prepare_pair, zoom_guess
from sddusr.registration.quality import RefQuality, measure_quality
from sddusr.registration.register import NotRegistered
from sddusr.registration.residual import (
    RefRegistration,
    as_depth,
    enlarged_center,
    fill,
    register_ref,
)
from sddusr.registration.visible import visible_mask
from sddusr.secrets import mask
from sddusr.visualization.explanation import Evidence, sheet

log = logging.getLogger(__name__)

DEEP_EXTENSIONS = (".png", ".tif", ".tiff")
"""Formats that hold 16 bits; the others get the picture rounded to 8."""

ReportProgress = Callable[[str, float], None]
"""Is told the phase of the work and the share of it that is done, 0..1."""


class Made(NamedTuple):
    """A picture that was written, and what only memory holds of it."""

    record: dict[str, Any]
    wide: Picture
    upscaled: Upscaled


class Upscaler:
    """Holds the weights and makes one picture after the other.

    Args:
        engine: weights that are loaded already; None loads those that the settings name.
    """

    def __init__(self, settings: Settings, engine: Engine | None = None) -> None:
        self.settings = settings
        self.engine = open_engine(settings) if engine is None else engine.with_settings(settings)

    def make(self, job: Job, report: ReportProgress = lambda phase, share: None) -> dict[str, Any]:
        """Write the picture, its explanation if asked for, and last its record, which is returned.

        Raises:
            as `run`.
        """
        return self.run(job, report).record

    def run(self, job: Job, report: ReportProgress = lambda phase, share: None) -> Made:
        """As `make`; what the picture was made from is returned too.

        Raises:
            NotRegistered: the tele picture was not found in the wide one.
            ValueError: pictures, boxes, formats or a memory limit that cannot be used.
            OSError: a file cannot be read or written.
        """
        settings, phases = self.settings, _Phases(report)
        phases.begin("reading")
        wide, tele = (read_picture(place, settings.max_pixels) for place in (job.wide, job.tele))
        dtype = _dtype(job, wide)
        size = SCALE * wide.pixels.shape[0], SCALE * wide.pixels.shape[1]
        check_output(job.out, *size, dtype, wide.alpha is not None)
        self._check_metadata(job, wide)
        phases.begin("registering")
        pair = place_ref(job, wide, tele, settings.pair, self._registration)
        quality = _quality(pair, wide)
        phases.begin("super-resolving")
        made = self._super_resolve(wide, pair, dtype, phases.tell_share)
        phases.begin("writing")
        self._write(job, wide, made)
        record = build_record(job, settings, (wide, tele), pair, made, quality) | {
            "device": self.engine.device,
            "memory": {
                "limit_bytes": settings.memory_bytes,
                "peak_bytes": self.engine.peak_bytes(),
            },
            "seconds": phases.end(),
        }
        if line := warn_of_ref(record):
            log.warning("%s: %s", job.name, line)
        if settings.explain:
            phases.begin("explaining")
            drawing = sheet(_evidence(wide, tele, pair, made, describe(record)))
            write_picture(explanation_place(job.out), drawing, quality=90)
        storage.write_atomic(record_place(job.out), mask(json.dumps(record, indent=1)).encode())
        return Made(record, wide, made)

    @property
    def _registration(self) -> RefRegistration:
        """How a tele picture on a given box is registered: as asked, or as the network needs."""
        if self.settings.register_ref is not None:
            return self.settings.register_ref
        return "auto" if self.engine.has_detail_skip else "none"

    def _check_metadata(self, job: Job, wide: Picture) -> None:
        """Refuse colours that the result's format cannot hold; log what else is lost."""
        if self.settings.strip_metadata:
            return
        check_colors(job.out, wide.metadata)
        if lost := describe_lost(job.out, wide.metadata):
            log.info("%s: not carried over: %s", job.out, lost)

    def _super_resolve(
        self, wide: Picture, pair: PreparedPair, dtype: type, tell_share: Callable[[float], None]
    ) -> Upscaled:
        return self.engine.super_resolve(
            wide.pixels,
            pair.ref,
            pair.box,
            dtype=dtype,
            without_ref=self.settings.without_ref or bool(pair.record.get("left_out")),
            progress=tell_share,
        )

    def _write(self, job: Job, wide: Picture, made: Upscaled) -> None:
        for place in (record_place(job.out), explanation_place(job.out)):
            storage.remove(place)  # theirs is an earlier result
        write_picture(
            job.out,
            made.sr,
            alpha=None if wide.alpha is None else enlarge(wide.alpha, made.sr.dtype),
            metadata=NO_METADATA if self.settings.strip_metadata else wide.metadata,
            quality=self.settings.quality,
        )


def place_ref(
    job: Job,
    wide: Picture,
    tele: Picture,
    config: PairConfig,
    method: RefRegistration = "none",
) -> PreparedPair:
    """Ref on the result's grid: found, or on a given box or in the middle and registered there.

    Args:
        method: how a Ref whose box is known is registered.

    Raises:
        NotRegistered: it cannot be found.
        ValueError: it is larger than the result.
    """
    if job.placement == "find":
        guess = zoom_guess(wide, tele)
        try:
            return prepare_pair(
                wide.pixels,
                tele.pixels,
                SCALE,
                zoom_guess=guess,
                config=config,
                alpha=tele.alpha,
            )
        except NotRegistered as error:
            remedy = "or say with --box where it lies"
            raise NotRegistered(f"{job.tele} in {job.wide}: {error}, {remedy}") from error
    height, width = wide.pixels.shape[:2]
    if job.placement == "middle":
        box = _middle((height, width), tele.pixels.shape[:2], job.tele)
    else:
        box = job.placement
    decision = "box given" if box is job.placement else "put in the middle"
    check_box(box, (SCALE * height, SCALE * width), job.tele)
    if tele.pixels.shape[:2] != (box.height, box.width):
        raise ValueError(
            f"{job.tele}: Ref is {tele.pixels.shape[0]}x{tele.pixels.shape[1]}, need the "
            f"{box.height}x{box.width} pixels of its box {list(box)}"
        )
    visible = visible_mask(tele.pixels, tele.alpha)
    try:
        found = register_ref(
            wide.pixels, tele.pixels, box, method, visible=visible, color=config.color
        )
    except NotRegistered as error:
        raise NotRegistered(f"{job.tele}: {error}") from error
    ref = fill(found.ref, enlarged_center(wide.pixels, box), found.valid)
    return PreparedPair(ref, found.valid, box, {"decision": decision, **found.record})


def enlarge(
    alpha: UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"], dtype: DTypeLike
) -> UInt8[np.ndarray, "2*h 2*w"] | UInt16[np.ndarray, "2*h 2*w"]:
    """Twice as large, bicubic, in the depth of the result."""
    share = alpha.astype(np.float32) / np.iinfo(alpha.dtype).max
    enlarged = enlarge_bicubic(share).clip(0, 1)
    return (enlarged * np.iinfo(dtype).max).round().astype(dtype)


def _quality(pair: PreparedPair, wide: Picture) -> RefQuality:
    """What registration measured, before it filled in what is of no use; else measured now."""
    if "quality" in pair.record:
        return RefQuality(**pair.record["quality"])
    center = enlarged_center(wide.pixels, pair.box)
    return measure_quality(pair.ref, as_depth(center, pair.ref.dtype), pair.valid, pair.ref)


class _Phases:
    """Tells what is going on and keeps how long each phase took."""

    def __init__(self, report: ReportProgress) -> None:
        self.report = report
        self.name = ""
        self.started = time.monotonic()
        self.seconds: dict[str, float] = {}

    def begin(self, name: str) -> None:
        self.end()
        self.name, self.started = name, time.monotonic()
        self.report(name, 0.0)

    def tell_share(self, share: float) -> None:
        self.report(self.name, share)

    def end(self) -> dict[str, float]:
        if self.name:
            self.seconds[self.name] = round(time.monotonic() - self.started, 3)
        return self.seconds


def _dtype(job: Job, wide: Picture) -> type:
    """The wide picture's depth where the format holds it."""
    path = job.out if storage.is_local(job.out) else job.out.partition("?")[0]
    deep = wide.pixels.dtype == np.uint16 and path.lower().endswith(DEEP_EXTENSIONS)
    return np.uint16 if deep else np.uint8


def _middle(lr_shape: tuple[int, int], ref_shape: tuple[int, int], tele: str) -> Box:
    """The box of Ref's size in the middle of the result."""
    height, width = (SCALE * side for side in lr_shape)
    if ref_shape[0] > height or ref_shape[1] > width:
        raise ValueError(
            f"{tele}: {ref_shape[0]}x{ref_shape[1]} is larger than the result, {height}x{width}; "
            "resize it to the result's density, or leave --centered out to have it registered"
        )
    return centered(*ref_shape, whole(height, width))


def _evidence(
    wide: Picture, tele: Picture, pair: PreparedPair, made: Upscaled, lines: list[str]
) -> Evidence:
    homography, outline = pair.record.get("homography"), None
    if homography is not None and "zoom" in pair.record:
        bottom, right = tele.pixels.shape[0] - 0.5, tele.pixels.shape[1] - 0.5
        corners = np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])
        points = np.column_stack([corners, np.ones(4)]) @ np.array(homography).T
        outline = points[:, 1::-1] / points[:, 2:]
    return Evidence(
        wide=_in_8_bits(wide.pixels),
        ref=_in_8_bits(pair.ref),
        valid=pair.valid,
        box=pair.box,
        outline=outline,
        matches=made.matches,
        lines=lines,
        trust=made.trust,
    )


def _in_8_bits(pixels: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    return pixels if pixels.dtype == np.uint8 else ((pixels + 128.0) / 257).astype(np.uint8)
