"""Validation on held-out pictures, shared out among the ranks."""

import logging
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from sddusr.data.dataset import Row, ShardSet
from sddusr.evaluation.dictionary_use import constant_dictionary, measure_dictionary
from sddusr.evaluation.metrics import Scores, score
from sddusr.geometry.box import HR_PER_CELL, Box, crop
from sddusr.inference import Upscaled, bicubic, super_resolve, to_tensor
from sddusr.model.precision import Precision
from sddusr.model.sddusr import SDDuSR
from sddusr.training import distributed
from sddusr.types import Triplet
from sddusr.visualization.diagnostics import fixed_window, render_diagnostics

PROTOCOL = "kedusr-float"
NUM_SHOWN = 2

log = logging.getLogger(__name__)

Pictures = dict[str, np.ndarray]


def validation_rows(shards: ShardSet) -> tuple[str, list[Row]]:
    """Split `val` and its pictures; where there are none, `test`, to watch but not to choose by."""
    split = "val" if shards.rows("val") else "test"
    return split, shards.rows(split)


def validate(
    model: SDDuSR, shards: ShardSet, precision: Precision, limit: int | None = None
) -> tuple[dict[str, float], Pictures]:
    """Mean scores over the held-out pictures, on every rank, and how the first few came about.

    Scores are PSNR and SSIM under `kedusr-float`, as `val/full_psnr`, the gain over bicubic as
    `val/full_psnr_gain`, what the centre takes from Ref as `val/center_psnr_from_ref` (0: the
    network has not learned to use it), the shares of cells that the masks keep, and what the
    dictionaries do: `val/psnr_from_tokens`, against the mean of their feature everywhere, and how
    widely their attentions spread (`DictionaryUse`). Names begin with the split. No held-out
    picture: none.

    Args:
        limit: only the first few pictures.
    """
    split, rows = validation_rows(shards)
    rows = rows[:limit]
    scores, pictures = {}, {}
    for index in range(distributed.rank(), len(rows), distributed.world_size()):
        triplet = shards.read(rows[index])
        is_shown = index < NUM_SHOWN
        scores[index], shown = _validate_one(model, triplet, precision, is_shown)
        pictures |= {f"{split}/{triplet.id}/{name}": image for name, image in shown.items()}
    by_index = {index: row for share in distributed.gather(scores) for index, row in share.items()}
    everyones_pictures = {k: v for share in distributed.gather(pictures) for k, v in share.items()}
    means = _means([by_index[index] for index in sorted(by_index)])
    return {f"{split}/{name}": value for name, value in means.items()}, everyones_pictures


def _validate_one(
    model: SDDuSR, triplet: Triplet, precision: Precision, is_shown: bool
) -> tuple[dict[str, float], Pictures]:
    window = fixed_window(triplet) if is_shown else None
    made = super_resolve(
        model, triplet.lr, triplet.ref, triplet.center_box, precision, look_at=window
    )
    device, box = next(model.parameters()).device, triplet.center_box
    hr = to_tensor(triplet.hr).to(device)
    blind = super_resolve(model, triplet.lr, triplet.ref, box, precision, without_ref=True)
    ours, theirs, without_ref = (
        _score_on(device, picture, hr, box) for picture in (made.sr, bicubic(triplet.lr), blind.sr)
    )
    row = ours._asdict()
    gains = zip(ours._fields, ours, theirs, strict=True)
    row |= {f"{name}_gain": a - b for name, a, b in gains if name.endswith("psnr")}
    row["center_psnr_from_ref"] = ours.center_psnr - without_ref.center_psnr
    if made.trust is not None:
        inside = crop(made.trust, Box(*(edge // HR_PER_CELL for edge in made.box)))
        row["center_trust"] = float(inside.mean())
    if made.matches.query_mask is not None:
        row["kept_queries"] = float(made.matches.query_mask.mean())
    if made.matches.key_mask is not None:
        row["kept_keys"] = float(made.matches.key_mask.mean())
    row |= _from_tokens(model, triplet, precision, made, hr, ours.full_psnr)
    return row, {} if window is None else render_diagnostics(triplet, made, window)


def _score_on(
    device: torch.device, picture: Float32[np.ndarray, "h w 3"], hr: Tensor, box: Box
) -> Scores:
    """Score where the network is: float64 takes seconds on a CPU, while a GPU would be idle."""
    return score(torch.from_numpy(picture).permute(2, 0, 1).to(device), hr, box, PROTOCOL)


def _from_tokens(
    model: SDDuSR,
    triplet: Triplet,
    precision: Precision,
    made: Upscaled,
    hr: Float[Tensor, "3 h w"],
    full_psnr: float,
) -> dict[str, float]:
    """What the dictionaries are worth in this picture; nothing where there are none."""
    if made.tokens is None:
        return {}
    used = measure_dictionary(model, triplet.lr, made.box, made.tokens)
    if used is None:
        return {}
    with constant_dictionary(model, used.mean_feat):
        constant = super_resolve(model, triplet.lr, triplet.ref, triplet.center_box, precision).sr
    psnr = _score_on(hr.device, constant, hr, triplet.center_box).full_psnr
    return {
        "psnr_from_tokens": full_psnr - psnr,
        "lookup_perplexity": used.lookup_perplexity,
        "update_share": used.update_share,
    }


def _means(rows: list[Mapping[str, float]]) -> dict[str, float]:
    """Means of what is finite: a picture whose box is the whole of it has no corner, and a black
    one has an infinite PSNR, which would make any checkpoint the best."""
    names = rows[0] if rows else {}
    defined = {name: [row[name] for row in rows if np.isfinite(row[name])] for name in names}
    return {name: float(np.mean(values)) for name, values in defined.items() if values}
