"""Networks with seeded weights, and packages of them, written by a process of its own.

The process has no type checks at run time: they would look at shapes that have no value yet.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from sddusr.config import PRESETS, ModelConfig
from sddusr.export.package import export_package
from sddusr.model.sddusr import SDDuSR

ROOT = Path(__file__).parents[2]


def whole_network(preset: str) -> ModelConfig:
    """A preset's network without downloads."""
    model = PRESETS[preset][1].model
    return replace(
        model,
        matching=replace(model.matching, vgg_weights="none"),
        alignment=replace(model.alignment, spynet_weights="none"),
    )


def small(preset: str) -> ModelConfig:
    """The same, as narrow and shallow as it goes."""
    model = whole_network(preset)
    return replace(
        model,
        dim=8 * model.dictionary.num_heads,
        encoder=replace(model.encoder, num_groups=1, num_blocks=1, reduction=4, num_ref_blocks=1),
        matching=replace(model.matching, vgg_dims=(8, 8), dim=8),
        alignment=replace(
            model.alignment,
            spynet_levels=2,
            spynet_dims=(8, 8, 8, 8),
            num_groups=2,
            max_offset_px=3.0,
        ),
        dictionary=replace(model.dictionary, num_tokens=8),
        fusion=replace(model.fusion, reduction=4, num_blocks=1),
        detail=replace(model.detail, trust_dim=4),
    )


def least(preset: str) -> ModelConfig:
    """A small network whose flow has one level: tracing takes seconds for every operator."""
    model = small(preset)
    return replace(model, alignment=replace(model.alignment, spynet_levels=1))


SIZES = {"whole": whole_network, "small": small, "least": least}


def seeded(config: ModelConfig) -> SDDuSR:
    """A network with seeded weights; what starts at zero is given some."""
    torch.manual_seed(0)
    model = SDDuSR(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.abs().max() == 0:
            nn.init.normal_(parameter, std=0.02)
    return model


def write_package(size: str, preset: str, to: str, precision: str, out: Path) -> Path:
    """Export a network in a process of its own."""
    command = [sys.executable, "-m", "tests.export.exporting", size, preset, to, precision]
    done = subprocess.run(
        [*command, str(out)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return out


if __name__ == "__main__":
    size, name, to, precision, out = sys.argv[1:]
    torch.set_num_threads(1)
    config = SIZES[size](name)
    export_package(
        seeded(config),
        config,
        out,
        network=name,
        checkpoint_sha256="0" * 64,
        to=to,  # pyright: ignore[reportArgumentType]
        precision=precision,  # pyright: ignore[reportArgumentType]
    )
