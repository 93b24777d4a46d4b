"""A package whose graphs are run by PyTorch, which needs no export."""

import numpy as np
import torch

from sddusr.config import ModelConfig
from sddusr.export.package import describe_network
from sddusr.export.specs import list_graphs
from sddusr.model.sddusr import SDDuSR
from sddusr.portable.package import Package


class TorchPackage(Package):
    """The modules that graphs are traced from, called with the runtime's arrays."""

    def __init__(self, model: SDDuSR, config: ModelConfig) -> None:
        self.manifest = describe_network(model, config, "seeded", "float32", "")
        self.specs = {spec.name: spec for spec in list_graphs(model, config)}

    def run(self, name: str, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """The outputs of a part of the network."""
        spec = self.specs[name]
        tensors = [
            torch.as_tensor(np.array(value)).to(put.dtype)
            for put, value in zip(spec.inputs, inputs, strict=True)
        ]
        with torch.no_grad():
            made = spec.module(*tensors)
        return tuple(x.numpy() for x in (made if isinstance(made, tuple) else (made,)))
