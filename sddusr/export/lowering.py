"""A part of the network to a traced program, in float32 or with float16 convolutions."""

import inspect
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from sddusr.export.specs import GraphSpec

ExportPrecision = Literal["float32", "float16"]


class _Half(nn.Module):
    """A part that convolves and multiplies in float16 where the network's autocast would."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *inputs: Tensor) -> Any:
        with torch.autocast("cpu", torch.float16):
            made = self.part(*inputs)
        return tuple(map(_exact, made)) if isinstance(made, tuple) else _exact(made)


def _exact(x: Tensor) -> Tensor:
    """Numbers in float32, as the runtime reads them."""
    return x.float() if x.is_floating_point() else x


def lower(spec: GraphSpec, sides: dict[str, int], precision: ExportPrecision) -> ExportedProgram:
    """Trace a part with inputs of these sides; named sides stay free."""
    part: nn.Module = _Half(spec.module) if precision == "float16" else spec.module
    shapes: Any = _as_arguments(part, spec.dynamic_shapes())
    with torch.no_grad():
        return torch.export.export(part, spec.example(sides), dynamic_shapes=shapes, strict=False)


def _as_arguments(part: nn.Module, shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Shapes in the order of `forward`'s arguments; those of `*rest` form one tuple."""
    arguments = inspect.signature(part.forward).parameters.values()
    num_named = sum(argument.kind != argument.VAR_POSITIONAL for argument in arguments)
    if num_named == len(shapes):
        return shapes
    return (*shapes[:num_named], tuple(shapes[num_named:]))


def halve_weights(model: Any) -> None:
    """Store weights that are cast to float16 as float16, in an `onnx_ir` model.

    Weights that a graph reads in both formats stay as they are.
    """
    import onnx_ir as ir

    for node in list(model.graph):
        if node.op_type != "Cast" or node.attributes["to"].as_int() != ir.DataType.FLOAT16:
            continue
        weight = node.inputs[0]
        if weight is None or weight.const_value is None or not weight.is_initializer():
            continue
        half = ir.tensor(weight.const_value.numpy().astype(np.float16), name=f"{weight.name}_half")
        value = ir.Value(name=half.name, const_value=half, type=ir.TensorType(half.dtype),
                         shape=weight.shape)  # fmt: skip
        if value.name not in model.graph.initializers:
            model.graph.register_initializer(value)
        ir.convenience.replace_all_uses_with(node.outputs[0], model.graph.initializers[value.name])
        model.graph.remove(node, safe=True)
        if not weight.uses():
            del model.graph.initializers[weight.name]
