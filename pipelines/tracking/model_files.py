"""The folder of an MLflow model: a checkpoint, the code that reads it, signature and example."""

import warnings
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

import sddusr
from sddusr.checkpoint import copy_network

LOADER = "sddusr.export.registered_model"

CARD = "CARD.md"

PACKAGES = (
    "einops",
    "jaxtyping",
    "lpips",
    "numpy",
    "opencv-python",
    "pillow",
    "psutil",
    "pyarrow",
    "safetensors",
    "simplejpeg",
    "torch",
    "torchvision",
    "tqdm",
)
"""What the code in a registered model imports."""

_PICTURE = np.dtype(np.uint8)

SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            TensorSpec(_PICTURE, (-1, -1, 3), "wide"),
            TensorSpec(_PICTURE, (-1, -1, 3), "tele"),
        ]
    ),
    outputs=Schema([TensorSpec(_PICTURE, (-1, -1, 3))]),
    params=ParamSchema([ParamSpec("box", DataType.long, [], shape=(-1,))]),
)
"""RGB pictures of any size; `box` is the position of `tele` in the result (y0, y1, x0, x1);
without it, `tele` is found in `wide`."""


def save_model(folder: Path, checkpoint: str, card: str, run_id: str, model_id: str) -> None:
    """Write `folder`/model: a checkpoint without its training state, its card, and the code."""
    data = folder / "sddusr"
    copy_network(checkpoint, str(data))
    (data / CARD).write_text(card)
    with warnings.catch_warnings():
        # On import: type hints of MLflow's own; on saving: integers that could be missing.
        warnings.simplefilter("ignore", UserWarning)
        from mlflow import pyfunc

        pyfunc.save_model(
            str(folder / "model"),
            loader_module=LOADER,
            data_path=str(data),
            code_paths=[str(Path(sddusr.__path__[0]))],
            signature=SIGNATURE,
            input_example=example(),
            pip_requirements=[f"{name}=={_version(name)}" for name in PACKAGES],
            mlflow_model=Model(run_id=run_id, model_id=model_id),
        )


def example() -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
    """A small drawn pair: what `wide` shows in full, `tele` shows of the middle at twice the
    resolution; and the box in which it lies."""
    y, x = np.mgrid[:64, :80].astype(np.float32)
    rings = np.sin(0.02 * ((y - 32) ** 2 + (x - 40) ** 2))
    stripes = np.stack([rings, np.cos(0.9 * x), np.sin(0.7 * y)], -1)
    large = (127.5 + 100 * stripes).clip(0, 255).astype(np.uint8)
    wide = cv2.resize(large, (40, 32), interpolation=cv2.INTER_AREA)
    tele = np.ascontiguousarray(large[16:48, 20:60])
    return {"wide": wide, "tele": tele}, {"box": [16, 48, 20, 60]}


def _version(package: str) -> str:
    """Without the local part, such as torch's `+cpu`, which no index knows."""
    return metadata.version(package).partition("+")[0]
