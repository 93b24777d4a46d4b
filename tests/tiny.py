"""A network small enough to run in milliseconds, and pictures for it."""

import torch

from sddusr.config import (
    AlignmentConfig,
    DictionaryConfig,
    EncoderConfig,
    FusionConfig,
    MatchingConfig,
    ModelConfig,
)

TINY = ModelConfig(
    dim=8,
    encoder=EncoderConfig(num_groups=1, num_blocks=1, reduction=4, num_ref_blocks=1),
    matching=MatchingConfig(vgg_dims=(4, 8), vgg_weights="none", dim=4),
    alignment=AlignmentConfig(
        spynet_weights="none", spynet_levels=2, spynet_dims=(4, 4, 4, 4), num_groups=2
    ),
    dictionary=DictionaryConfig(num_tokens=4),
    fusion=FusionConfig(reduction=4, num_blocks=1),
)


def pictures(batch=2, lr=(16, 20), center=(8, 12), seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = (lr, center, tuple(2 * side for side in center))
    return [torch.rand(batch, 3, *size, generator=generator) for size in sizes]


def without_zero_starts(model):
    """Layers that start at zero hold back the gradient of what lies before them, for one step."""
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model
