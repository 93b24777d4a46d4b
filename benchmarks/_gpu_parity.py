"""The parts of the network against float64 on the CPU, for gpu.py."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from _gpu_setup import CLOSE, FORMATS, Row, Setup, batch_of, needs_values
from _network import model_config, network
from torch import Tensor

from sddusr.model.precision import computing_in
from sddusr.model.sddusr import SDDuSR
from sddusr.model.tuning import place_on


@needs_values
def parity(setup: Setup) -> Iterator[Row]:
    """Each part of the network against float64 on the CPU."""
    crop, preset = (16, "demo") if setup.is_quick else (64, "paper")
    exact, ours = (_with_random_zeros(network(preset).eval()) for _ in range(2))
    exact, ours = exact.double(), place_on(ours, setup.device)
    inputs = _inputs(crop, model_config(preset).dim)
    with torch.no_grad():
        truth = dict(_parts(exact, *(x.double() for x in inputs)))
        for precision in FORMATS:
            with computing_in(precision, setup.device):
                found = dict(_parts(ours, *(x.to(setup.device) for x in inputs)))
            for name, wanted in truth.items():
                error = (found[name].cpu().double() - wanted).abs().max() / wanted.abs().max()
                is_close = bool(error < CLOSE[precision])
                yield {"what": name, "format": precision, "error": float(error),
                       "passes": is_close}  # fmt: skip


def _with_random_zeros(model: SDDuSR) -> SDDuSR:
    """Weights that begin at zero would hide what they multiply."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():
                weight.normal_(0, 0.02)
    return model


def _inputs(crop: int, dim: int) -> list[Tensor]:
    """LR, its centre, Ref; three features, and a flow of some pixels, on the 2x grid."""
    batch, generator = batch_of(1, crop), torch.Generator().manual_seed(0)
    feats = [torch.randn(1, dim, 2 * crop, 2 * crop, generator=generator) for _ in range(3)]
    flow = 3 * torch.randn(1, 2, 2 * crop, 2 * crop, generator=generator)
    return [batch.lr, batch.lr_center, batch.ref, *feats, flow]


def _parts(model: SDDuSR, lr: Tensor, center: Tensor, ref: Tensor, *given: Tensor
           ) -> Iterator[tuple[str, Tensor]]:  # fmt: skip
    """What each part makes of the same inputs."""
    first, second, third, flow = given
    yield "lr encoder", model.lr_encoder(lr)
    yield "ref encoder", model.ref_encoder(ref)
    yield "matching features", model.matching.features(lr)
    with torch.autocast(lr.device.type, enabled=False):  # as `alignment.flow` does
        yield "flow", model.alignment.spynet(center, F.avg_pool2d(ref, 2))
    alignment, dictionary = (_as_it_computes(x) for x in (model.alignment, model.dictionary))
    yield "alignment", alignment.align(flow.float(), first.float(), second.float())
    yield "dictionary", dictionary(first.float(), second.float(), third.float())
    confidence = first[:, :1, ::4, ::4].abs().clamp(max=1)
    yield "fusion", model.fusion(first, *model.sources(confidence, second, third))


def _as_it_computes(part: Any) -> Any:
    """Flow, offsets and tokens are float32's everywhere, so their truth on the CPU is too."""
    is_exact = next(part.parameters()).dtype == torch.float64
    return deepcopy(part).float() if is_exact else part
