"""Convolutions that apply their activation as they write, while a picture is made.

In bfloat16 a processor convolves faster than it reads and writes a map once more: activations by
themselves were a fifteenth of a picture's time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
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
