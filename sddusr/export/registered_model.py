"""How MLflow loads a registered model: safetensors and JSON into the network, no pickle.

MLflow calls `_load_pyfunc` of the copy that lies in the model's own folder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sddusr.checkpoint import CONFIG, FORMAT, MODEL
from sddusr.checkpoint_checks import build_model, parse_config, parse_weights
from sddusr.config import SCALE
from sddusr.geometry.box import Box
from sddusr.inference import super_resolve
from sddusr.model.sddusr import SDDuSR
from sddusr.registration.pairing import prepare_pair


class RegisteredModel:
    """The network behind MLflow's `predict`."""

    def __init__(self, model: SDDuSR) -> None:
        self.model = model

    def predict(
        self, inputs: Mapping[str, np.ndarray], params: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """A picture twice as large, uint8 RGB.

        Args:
            inputs: `wide` and `tele`, uint8 RGB (h, w, 3).
            params: `box`, position of `tele` in the result: y0, y1, x0, x1; without it, `tele` is
                found in `wide`.

        Raises:
            NotRegistered: `tele` was not found in `wide`.
            ValueError: the box leaves the result, or `tele` does not have its size.
        """
        wide, tele = (np.ascontiguousarray(inputs[name], np.uint8) for name in ("wide", "tele"))
        edges = [int(edge) for edge in np.ravel((params or {}).get("box", []))]
        if edges and len(edges) != len(Box._fields):
            raise ValueError(f"box is {edges}, need y0, y1, x0, x1, or leave it out")
        if edges:
            return super_resolve(self.model, wide, tele, Box(*edges), dtype=np.uint8).sr
        pair = prepare_pair(wide, tele, SCALE)
        is_useless = bool(pair.record.get("left_out"))
        return super_resolve(
            self.model, wide, pair.ref, pair.box, dtype=np.uint8, without_ref=is_useless
        ).sr


def load_network(folder: str | Path) -> SDDuSR:
    """The network of a checkpoint's two readable files, ready for inference."""
    config, _ = parse_config(Path(folder, CONFIG).read_bytes(), str(folder), FORMAT)
    weights = parse_weights(Path(folder, MODEL).read_bytes(), str(folder))
    model = build_model(config.model, weights, str(folder))
    return model.eval().requires_grad_(False)


def _load_pyfunc(path: str) -> RegisteredModel:
    model = load_network(path)
    return RegisteredModel(model.to("cuda" if torch.cuda.is_available() else "cpu"))
