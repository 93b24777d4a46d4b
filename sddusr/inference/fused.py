"""Layers made faster while an image is made: fused activations, weights that are cast once.

In bfloat16 a processor convolves faster than it reads and writes a map once more: activations by
themselves were a fifteenth of a picture's time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sddusr.inference.overrides import override_forward

Activation = nn.ReLU | nn.LeakyReLU


@contextmanager
def fused_activations(model: nn.Module) -> Iterator[None]:
    """Inside, a convolution that an activation follows does both at once under autocast.

    The operator is oneDNN's, which TorchInductor uses. Nothing changes without autocast, on a GPU,
    or where PyTorch or the processor has no bfloat16 of oneDNN's. No gradients pass.
    """
    is_cpu = next(model.parameters()).device.type == "cpu"
    if not (is_cpu and torch.is_autocast_enabled("cpu") and has_fused_bfloat16()):
        yield
        return
    forwards = {}
    for conv, act in _followed_convolutions(model):
        forwards |= {conv: _fused(conv, act), act: _unchanged}
    with override_forward(forwards):
        yield


_CASTS: WeakKeyDictionary[nn.Module, tuple[Any, Tensor, Tensor | None]] = WeakKeyDictionary()
"""Layer -> what its weights were when they were cast, weight, bias."""


@contextmanager
def cast_weights(model: nn.Module) -> Iterator[None]:
    """Inside, under autocast on a GPU, layers use copies of their weights in its format.

    Autocast itself casts weights that take no gradients again for every call: a thousand launches
    an image. The copies are kept until the weights change. No gradients pass.
    """
    device = next(model.parameters()).device
    if device.type == "cpu" or not torch.is_autocast_enabled(device.type):
        yield
        return
    layers = (m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    with override_forward({layer: _casting(layer, device.type) for layer in layers}):
        yield


def _casting(layer: nn.Conv2d | nn.Linear, device: str) -> Callable[[Tensor], Tensor]:
    plainly = layer.forward

    def forward(x: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(device):  # a part that computes in float32, as the flow
            return plainly(x)
        weight, bias = _cast(layer, torch.get_autocast_dtype(device))
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    return forward


def _cast(layer: nn.Conv2d | nn.Linear, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    weight, bias = layer.weight, layer.bias
    now = dtype, *((id(x), x._version) for x in (weight, bias) if x is not None)
    known = _CASTS.get(layer)
    if known is None or known[0] != now:
        with torch.inference_mode(False), torch.no_grad():
            known = now, weight.to(dtype), None if bias is None else bias.to(dtype)
        _CASTS[layer] = known
    return known[1], known[2]


def has_fused_bfloat16() -> bool:
    """Whether oneDNN computes bfloat16 here; processors with AVX2 alone refuse its operator."""
    is_there = torch.backends.mkldnn.is_available()
    return is_there and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _followed_convolutions(model: nn.Module) -> Iterator[tuple[nn.Conv2d, Activation]]:
    for sequence in model.modules():
        if isinstance(sequence, nn.Sequential):
            for layer, after in pairwise(sequence):
                if isinstance(layer, nn.Conv2d) and isinstance(after, Activation):
                    yield layer, after


def _fused(conv: nn.Conv2d, act: Activation) -> Callable[[Tensor], Tensor]:
    plainly = conv.forward, act.forward
    dtype = torch.get_autocast_dtype("cpu")
    weight = conv.weight.to(dtype, memory_format=torch.channels_last)
    bias = None if conv.bias is None else conv.bias.to(dtype)
    name, scalars = "relu", []
    if isinstance(act, nn.LeakyReLU):
        name, scalars = "leaky_relu", [act.negative_slope]
    geometry = conv.padding, conv.stride, conv.dilation, conv.groups

    def forward(x: Tensor) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):  # a part that computes in float32, as the flow
            convolve, activate = plainly
            return activate(convolve(x))
        return torch.ops.mkldnn._convolution_pointwise(
            x.to(dtype), weight, bias, *geometry, name, scalars, ""
        )

    return forward


def _unchanged(x: Tensor) -> Tensor:
    return x
