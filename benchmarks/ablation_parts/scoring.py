"""Scores of a trained network on named test sets, kept beside its checkpoints."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sddusr import storage
from sddusr.checkpoint import load_model, read_checkpoint
from sddusr.cli import command_line
from sddusr.data.dataset import ShardSet
from sddusr.evaluation.metrics import Lpips, Protocol
from sddusr.evaluation.results import ImageScores
from sddusr.evaluation.scoring import BICUBIC, score_triplet
from sddusr.inference import bicubic, super_resolve
from sddusr.model.precision import Precision
from sddusr.model.sddusr import num_parameters

SCORES = "scores-{name}.json"

WITHOUT_REF = "without Ref"
"""Method name of an image that was made with Ref left out."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What is scored, and how."""

    tests: tuple[str, ...]
    """Folders or URIs of shards."""
    names: tuple[str, ...]
    """What their rows are called."""
    protocol: Protocol
    precision: Precision
    lpips_weights: str | None
    """None where LPIPS cannot be measured."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One picture of one trained network."""

    test: str
    """The test set's name: its folder's."""
    id: str
    variant: str
    seed: int
    full_psnr: float
    center_psnr: float
    corner_psnr: float
    full_ssim: float
    center_ssim: float
    corner_ssim: float
    full_lpips: float | None
    kept_queries: float
    kept_keys: float
    seconds: float
    num_parameters: int
    center_psnr_from_ref: float
    """PSNR that the centre loses when Ref is left out, dB."""


def name_of(place: str) -> str:
    return place.rstrip("/").rpartition("/")[2]


def score_run(
    folder: str, variant: str, seed: int, search_all_keys: bool, scoring: Scoring
) -> list[dict[str, Any]]:
    """Every picture of every test set, by a run's checkpoint; read from disk where they were
    scored before.

    Args:
        variant: what the rows are called; a row of bicubic enlargement goes with each.
        search_all_keys: leave the key mask out.
    """
    command_line.log_lines()
    sets = [ShardSet(place) for place in scoring.tests]
    checkpoint = read_checkpoint(folder).place
    asked = {"checkpoint": checkpoint, "how": asdict(scoring), "data": _hashes(sets)}
    place = storage.join(folder, SCORES.format(name=variant))
    if storage.exists(place):
        before = storage.read_json(place)
        if before["asked"] == json.loads(json.dumps(asked)):
            return before["rows"]
    model = load_model(checkpoint).to("cuda" if torch.cuda.is_available() else "cpu")
    model.matching.mask_keys &= not search_all_keys
    lpips = Lpips(scoring.lpips_weights) if scoring.lpips_weights else None
    rows = []
    for name, shards in zip(scoring.names, sets, strict=True):
        for triplet in shards.iterate("test"):
            started, box = time.perf_counter(), triplet.center_box
            made = super_resolve(model, triplet.lr, triplet.ref, box, scoring.precision)
            seconds, matches = time.perf_counter() - started, made.matches
            blind = super_resolve(
                model, triplet.lr, triplet.ref, box, scoring.precision, without_ref=True
            )
            pictures = {BICUBIC: bicubic(triplet.lr), variant: made.sr, WITHOUT_REF: blind.sr}
            kept = [
                1.0 if mask is None else float(mask.mean())
                for mask in (matches.query_mask, matches.key_mask)
            ]
            images = score_triplet(triplet, pictures, [scoring.protocol], lpips)
            without = images.pop().scores.center_psnr
            for image in images:
                about = (name, seed, kept, seconds, num_parameters(model))
                from_ref = image.scores.center_psnr - without if image.method == variant else 0.0
                rows.append(asdict(_scored(image, *about, from_ref)))
    storage.write_atomic(place, json.dumps({"asked": asked, "rows": rows}).encode())
    return rows


def _scored(
    image: ImageScores,
    test: str,
    seed: int,
    kept: Sequence[float],
    seconds: float,
    num: int,
    from_ref: float,
) -> Scored:
    return Scored(
        test=test,
        id=image.id,
        variant=image.method,
        seed=seed,
        **image.scores._asdict(),
        full_lpips=image.full_lpips,
        kept_queries=kept[0],
        kept_keys=kept[1],
        seconds=seconds,
        num_parameters=num,
        center_psnr_from_ref=from_ref,
    )


def _hashes(sets: Sequence[ShardSet]) -> list[str]:
    return [shards.content_hash for shards in sets]
