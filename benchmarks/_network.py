"""The network and the pictures that the benchmarks run on: random weights, synthetic pictures."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sddusr.config import PRESETS, SCALE, ModelConfig
from sddusr.model.sddusr import SDDuSR, num_parameters

KEPT = 10.0
"""Bias of the mask generator's decision that keeps every cell."""


def model_config(preset: str) -> ModelConfig:
    """A preset's network, without weights that would have to be fetched."""
    model = PRESETS[preset][1].model
    return replace(
        model,
        matching=replace(model.matching, vgg_weights="none"),
        alignment=replace(model.alignment, spynet_weights="none"),
    )


def network(preset: str) -> SDDuSR:
    """In inference it searches for every cell: what a trained mask leaves out is not known here."""
    torch.manual_seed(0)
    model = SDDuSR(model_config(preset))
    if model.matching.mask_generator is not None:
        with torch.no_grad():
            model.matching.mask_generator.decide[-1].bias.copy_(torch.tensor([-KEPT, KEPT]))
    return model


def textured(height: int, width: int, seed: int = 0) -> Tensor:
    """A picture (3, height, width) in 0..1 with detail at every scale, as photographs have."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.full((3, height, width), 0.5)
    for cell, strength in ((64, 0.15), (16, 0.1), (4, 0.06), (1, 0.02)):
        noise = torch.randn(1, 3, height // cell + 2, width // cell + 2, generator=generator)
        picture += strength * F.interpolate(noise, size=(height, width), mode="bicubic")[0]
    return picture.clamp(0, 1)


def network_operations(model: SDDuSR, num_px: int, num_center_px: int, num_pairs: int) -> float:
    """Of a forward pass: every weight once for each pixel of its grid, and 288 for each pair."""
    grid, center = SCALE**2 * num_px, SCALE**2 * num_center_px
    on_lr = num_parameters(model.lr_encoder) * num_px
    flow = model.alignment.spynet
    on_center = sum(
        num_parameters(part) for part in (model.ref_encoder, model.center_encoder, model.alignment)
    ) - num_parameters(flow)
    # SpyNet's finest level works on the grid of LR's centre, each other on half of the next one's.
    finest_first = enumerate(reversed(flow.levels))
    on_center += sum(num_parameters(level) / 4 ** (1 + i) for i, level in finest_first)
    on_grid = num_parameters(model.fusion) + num_parameters(model.head)
    return 2.0 * (on_lr + on_center * center + on_grid * grid) + 288.0 * num_pairs
