"""A wide and a tele picture in, a picture twice as large out."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from einops import rearrange

from sddusr.config import LR_PER_CELL, SCALE
from sddusr.geometry.box import Box, align_ref, check_box, crop, to_lr
from sddusr.imaging.allocator import keeping_freed_memory
from sddusr.imaging.arrays import padded_to_even
from sddusr.inference.carried import DetailInputs
from sddusr.inference.conversion import Pixels, Uploads, download, to_pixels
from sddusr.inference.fused import cast_weights, fused_activations
from sddusr.inference.memory import Plan, plan_memory
from sddusr.inference.precompute import (
    FrameFeatures,
    Inputs,
    nothing_found,
    precompute_features,
    search,
)
from sddusr.inference.progress import WeightedProgress
from sddusr.inference.regions import Reconstruction
from sddusr.inference.result import Matches, Upscaled, is_without_ref
from sddusr.inference.tiles import scaled
from sddusr.inference.trust_map import TrustMap
from sddusr.model.matching.fast_search import MatchingMode
from sddusr.model.matching.matcher import Search
from sddusr.model.matching.nearest_key import Progress
from sddusr.model.precision import Precision, computing_in
from sddusr.model.sddusr import SDDuSR


def super_resolve(
    model: SDDuSR,
    lr: Pixels,
    ref: Pixels,
    box: Box,
    precision: Precision = "float32",
    *,
    dtype: Any = np.float32,
    memory_bytes: int | None = None,
    memory_share: float = 1.0,
    plan: Plan | None = None,
    progress: Progress | None = None,
    look_at: Box | None = None,
    trust: float = 1.0,
    without_ref: bool = False,
    matching: MatchingMode = "exact",
) -> Upscaled:
    """Run the model on whole pictures of any size, on the device that holds its weights.

    The box is snapped to the matching grid and `ref` trimmed with it; odd sides of `lr` are
    padded by their last row or column, and what they add is cut from the result.

    Args:
        lr, ref: RGB, uint8 or uint16.
        box: where `ref` lies in the result, HR pixels.
        precision: see `sddusr.model.precision`.
        dtype: of the result: float32, or uint8 or uint16, clamped and rounded.
        memory_bytes: what the process (on a GPU: torch) may take at its peak; None takes most of
            what is free, and keeps until the end what layers free, which is faster.
        memory_share: of what is free, where other processes work beside this one.
        plan: how to cut the picture; None lets the memory decide.
        progress: told the share of the work that is done.
        look_at: HR pixels of a part, on the matching grid, of which `sources` are wanted too; LR is
            then encoded once more.
        trust: 0 to 1, scales how far Ref's detail and feature are trusted by a network with a
            detail skip.
        without_ref: leave Ref out: no detail, and zeros in place of the warped feature and of the
            dictionary's.
        matching: how keys are searched.

    Raises:
        ValueError: `box` leaves the result, `ref` does not have its size, or the memory is too
            small.
    """
    height, width = lr.shape[:2]
    without_ref = is_without_ref(trust, without_ref, model.trust is not None)
    check_box(box, (SCALE * height, SCALE * width), "Ref")
    aligned = align_ref(ref, box)
    device = next(model.parameters()).device
    center = crop(lr, to_lr(aligned.box))
    frame = padded_to_even(lr)
    uploads = Uploads()
    detail = None
    if not without_ref and model.trust is not None:
        detail = DetailInputs(ref=ref, lr=frame, box=box, snapped=aligned.box, uploads=uploads)
    inputs = Inputs(frame, center, aligned.ref, device, detail, uploads)
    result = np.empty((SCALE * height, SCALE * width, 3), dtype)
    keeping = keeping_freed_memory() if memory_bytes is None else nullcontext()
    with keeping, _computing(model, precision, device):
        if plan is None:
            plan = plan_memory(
                model,
                inputs,
                result.nbytes,
                bfloat16=precision == "bfloat16",
                limit=memory_bytes,
                share=memory_share,
            )
        stages = WeightedProgress(model, inputs, progress, matching)
        if without_ref:
            known = FrameFeatures(nothing_found(inputs), None, None)
        else:
            found = search(model, inputs, stages.of("search"), matching, aligned.box)
            known = precompute_features(
                model,
                inputs,
                found,
                side=SCALE * plan.center_px,
                dtype=plan.bank_dtype,
                progress=stages.of("learn"),
                trust=trust,
            )
        cells = (side // LR_PER_CELL for side in inputs.size)
        trust_map = None if known.carried is None else TrustMap(*cells)
        made = Reconstruction(model, inputs, known, trust, trust_map)
        _fill(result, made, plan, stages)
        sources = None
        if look_at is not None:
            sources = made.sources_of(scaled(look_at, Fraction(1, SCALE)), plan.region_px)
    return Upscaled(
        result,
        _matches(known.found, inputs),
        aligned.box,
        plan,
        sources,
        trust_map and trust_map.trust,
        trust_map and trust_map.energy,
        without_ref,
        known.tokens,
    )


def _fill(result: np.ndarray, made: Reconstruction, plan: Plan, stages: WeightedProgress) -> None:
    """Write the result, tile by tile."""
    for core, sr in made.pieces(plan.region_px, plan.tile_px, plan.kept_maps, stages):
        place = crop(result, scaled(core, SCALE))
        place[:] = to_pixels(sr[0], result.dtype)[: place.shape[0], : place.shape[1]]


def _matches(found: Search, inputs: Inputs) -> Matches:
    key_rows, key_cols = (side // LR_PER_CELL for side in inputs.center.shape[:2])
    index = rearrange(found.key_index, "1 (y x) -> y x", y=found.weight.shape[2])
    maps = [found.confidence[0, 0], index, found.weight[0, 0] > 0]
    if found.key_mask is not None:
        maps.append(found.key_mask[0, 0])
    confidence, key_index, query_mask, *key_mask = download(*maps)
    return Matches(
        confidence=confidence,
        query_mask=query_mask if found.is_sparse else None,
        key_mask=key_mask[0] if key_mask else None,
        key_index=key_index,
        key_shape=(key_rows, key_cols),
        is_fast=found.is_fast,
        confidence_ratio=found.confidence_ratio,
    )


@contextmanager
def _computing(model: SDDuSR, precision: Precision, device: torch.device) -> Iterator[None]:
    """The model in evaluation, without gradients, in a precision."""
    was_training = model.training
    model.eval()
    try:
        with (
            torch.inference_mode(),
            computing_in(precision, device),
            fused_activations(model),
            cast_weights(model),
        ):
            yield
    finally:
        model.train(was_training)
