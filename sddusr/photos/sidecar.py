"""The record beside a result: what it was made from, what was found, what it took.

It is written last: a result without one is not finished, and one whose record names other inputs,
weights or options is made again.
"""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import numpy as np

from sddusr import storage
from sddusr.geometry.box import HR_PER_CELL, Box, crop
from sddusr.imaging.images import Picture
from sddusr.inference.result import Upscaled
from sddusr.photos.jobs import Job, Settings, explanation_place, record_place
from sddusr.registration.pairing import PreparedPair
from sddusr.registration.quality import RefQuality
from sddusr.visualization.explanation import kept_share

MADE_BY = "sddusr"
FORMAT = 1


def is_finished(job: Job, settings: Settings) -> bool:
    """Whether the result is there and its record names these inputs, weights and options.

    Raises:
        FileNotFoundError: an input is missing.
        ValueError: the record's place holds a file of somebody else.
    """
    place = record_place(job.out)
    if not storage.exists(place):
        return False
    record = _read_record(place)
    outputs = [job.out, *([explanation_place(job.out)] if settings.explain else [])]
    if record.get("format") != FORMAT or not all(storage.exists(output) for output in outputs):
        return False
    hashes = (hashlib.sha256(storage.read_bytes(file)).hexdigest() for file in (job.wide, job.tele))
    return record.get("made_from") == made_from(job, settings, *hashes)


def _read_record(place: str) -> dict[str, Any]:
    try:
        record = json.loads(storage.read_bytes(place))
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, dict) and record.get("made_by") == MADE_BY:
        return record
    raise ValueError(
        f"{place}: no record of an earlier result, but this one's record would overwrite it; "
        "choose another --out"
    )


def made_from(job: Job, settings: Settings, wide_sha256: str, tele_sha256: str) -> dict[str, Any]:
    """What decides a result, as plain JSON: with the same again there is nothing to do."""
    return {
        "wide_sha256": wide_sha256,
        "tele_sha256": tele_sha256,
        "checkpoint_sha256": settings.checkpoint_hash,
        **({} if settings.runtime == "torch" else {"runtime": settings.runtime}),
        "file": storage.name(job.out),
        "placement": list(job.placement) if isinstance(job.placement, Box) else job.placement,
        "pair": asdict(settings.pair),
        "precision": settings.precision,
        "matching": settings.matching,
        "quality": settings.quality,
        "strip_metadata": settings.strip_metadata,
        "register_ref": settings.register_ref,
        "trust": settings.trust,
    }


def build_record(
    job: Job,
    settings: Settings,
    pictures: tuple[Picture, Picture],
    pair: PreparedPair,
    made: Upscaled,
    quality: RefQuality,
) -> dict[str, Any]:
    """What was found and done, without what only the process knows: memory, device, seconds."""
    wide, tele = pictures
    matches = made.matches
    return {
        "made_by": MADE_BY,
        "format": FORMAT,
        "made_from": made_from(job, settings, wide.sha256, tele.sha256),
        "wide": {"place": job.wide, "size": wide.pixels.shape[:2]},
        "tele": {"place": job.tele, "size": tele.pixels.shape[:2]},
        "result": {
            "size": made.sr.shape[:2],
            "bits": 8 * made.sr.itemsize,
            "alpha": wide.alpha is not None,
            "box": list(made.box),
        },
        "registration": pair.record,
        "ref": describe_ref(made, quality),
        "matching": {
            "query_share": kept_share(matches.query_mask),
            "key_share": kept_share(matches.key_mask),
            "median_confidence": _median_confidence(made),
            "mode": "fast" if matches.is_fast else "exact",
            "confidence_ratio": matches.confidence_ratio,
        },
        "checkpoint": settings.checkpoint,
        "plan": made.plan._asdict() | {"bank_dtype": str(made.plan.bank_dtype)},
    }


MOSTLY_LEFT_OUT = 0.5
"""Share of Ref's detail below which a line says why."""
MIN_DETAIL = 1 / 255
"""Cells with less detail (root mean square, of 1) show nothing by it."""


def describe_ref(made: Upscaled, quality: RefQuality) -> dict[str, Any]:
    """How much of Ref's detail was taken inside the box, what was measured, and why not the rest.

    `taken_share` is the mean trust over the cells that have detail to be taken. It is None where
    the network has no detail skip, and 0 without Ref.
    """
    taken, differs = None, quality.reasons()
    if made.trust is not None and made.detail_energy is not None:
        inside = Box(*(edge // HR_PER_CELL for edge in made.box))
        trust, energy = crop(made.trust, inside), crop(made.detail_energy, inside)
        has_detail = energy > MIN_DETAIL**2
        taken = float(trust[has_detail].mean()) if has_detail.any() else float(trust.mean())
    elif made.without_ref:
        taken = 0.0
    return {
        "taken_share": None if taken is None else round(taken, 4),
        "left_out_as_asked": made.without_ref and not quality.is_useless,
        "measured": quality.record(),
        "reasons": differs,
    }


def warn_of_ref(record: dict[str, Any]) -> str:
    """One line where the tele picture was left out for the most part, or should be."""
    ref = record["ref"]
    taken, reasons = ref["taken_share"], "; ".join(ref["reasons"])
    if ref["left_out_as_asked"]:
        return ""
    if taken is None:
        return reasons and f"the tele picture may harm the result: {reasons}"
    if taken < MOSTLY_LEFT_OUT or (reasons and taken < 1):
        return f"{taken:.0%} of the tele picture's detail was taken; {reasons or 'it is not sure'}"
    return ""


def describe(record: dict[str, Any]) -> list[str]:
    """What a record says, in lines for people."""
    registration, matching = record["registration"], record["matching"]
    lines = [f"tele picture: {registration['decision']}"]
    if "zoom" in registration:
        lines += [
            f"zoom {registration['zoom']:.2f} (tele pixels per wide pixel), "
            f"turned by {registration['rotation_deg']:.1f} degrees",
            f"{registration['num_inliers']} of {registration['num_matches']} matches agree, "
            f"to {registration['reprojection_px']:.2f} wide pixels",
            f"correlation {registration['ncc_before']:.2f}, with the parallax followed "
            f"{registration['ncc_after']:.2f}",
            f"colours: {registration['color']['kind']}, "
            f"median difference {registration['color']['error_before']:.1%} before, "
            f"{registration['color']['error_after']:.1%} after",
        ]
    box, (height, width) = Box(*record["result"]["box"]), record["result"]["size"]
    ref = record["ref"]
    if ref["taken_share"] is not None:
        lines.append(f"tele detail taken inside the box: {ref['taken_share']:.0%}")
    return [
        *lines,
        *ref["reasons"],
        f"centre box {list(box)} of {height} x {width}: "
        f"{box.height * box.width / (height * width):.0%} of the picture",
        f"cells that search: {matching['query_share']:.0%}; "
        f"cells of the centre that are searched: {matching['key_share']:.0%}",
        f"median confidence of those that search: {matching['median_confidence']:.2f}",
        *_fast_search(matching),
        ", ".join(f"{phase} {took:.1f} s" for phase, took in record["seconds"].items()),
        f"peak memory {record['memory']['peak_bytes'] / 1e9:.1f} GB on {record['device']}",
    ]


def _fast_search(matching: dict[str, Any]) -> list[str]:
    """A line about the fast search where there was one."""
    ratio = matching["confidence_ratio"]
    if ratio is None:
        return []
    return [f"{matching['mode']} matching; the fast one has {ratio:.2%} of the exact confidence"]


def _median_confidence(made: Upscaled) -> float:
    mask, confidence = made.matches.query_mask, made.matches.confidence
    searching = confidence if mask is None else confidence[mask]
    return float(np.median(searching)) if searching.size else 0.0
