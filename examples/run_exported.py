"""Enlarge a photo without its tele image, from only its manifest and three graphs of a package.

python examples/run_exported.py PACKAGE wide.png sr.png

It needs numpy, onnxruntime and Pillow. The photo is one window: its sides must be even, and memory
holds all of it. `sddusr upscale --runtime onnx` does the rest: tele image, tiles and halos.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image


def run(name: str, known: dict[str, np.ndarray], cells: dict[str, int]) -> list[np.ndarray]:
    """Run a graph; inputs that are not known are zeros of the manifest's shape: no Ref."""
    graph, feeds = manifest["graphs"][name], {}
    for spec in graph["inputs"]:
        shape = [side if isinstance(side, int) else evaluate(side, cells) for side in spec["shape"]]
        feeds[spec["name"]] = known.get(spec["name"], np.zeros(shape, spec["dtype"]))
    session = onnxruntime.InferenceSession(package / graph["file"])
    return session.run(graph["outputs"], feeds)


def evaluate(side: str, cells: dict[str, int]) -> int:
    """A side such as `4*h`, in cells of 2x2 pixels of the photo."""
    factor, _, name = side.rpartition("*")
    return int(factor or 1) * cells[name]


package = Path(sys.argv[1])
manifest = json.loads((package / "manifest.json").read_text())
lr = np.asarray(Image.open(sys.argv[2]).convert("RGB"), np.float32) / 255
known = {"lr": lr.transpose(2, 0, 1)[None]}
cells = {"h": lr.shape[0] // 2, "w": lr.shape[1] // 2}

(known["encoded"],) = run("encode", known, cells)
(before_gates,) = run("gates", known, cells)
known["pooled_mean"] = before_gates.mean(axis=(2, 3), keepdims=True)
known["pooled_max"] = before_gates.max(axis=(2, 3), keepdims=True)
sr = run("tile", known, cells)[0][0].transpose(1, 2, 0)
Image.fromarray((sr.clip(0, 1) * 255).round().astype(np.uint8)).save(sys.argv[3])
