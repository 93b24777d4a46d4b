"""An exported package on disk: graphs, and the manifest that says what they take and give."""

import hashlib
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from sddusr.config.serialization import from_dict

MANIFEST = "manifest.json"
FORMAT = 4
MADE_BY = "sddusr export"


@dataclass(frozen=True, kw_only=True)
class Reaches:
    """How far each stage looks beyond a window's core, and the widths of its maps."""

    dim: int
    """Channels of the features on the 2x grid."""
    wide_dim: int
    """Channels of all that is fused."""
    flow_dim: int
    """Most channels of a layer of the flow."""
    vgg_dim: int
    """Channels of the matching features' first layers."""
    features_dim: int
    """Channels of the matching features."""
    features_px: int
    """Matching features, LR pixels."""
    encoder_px: int
    """LR encoder, LR pixels."""
    center_encoder_px: int
    """Centre encoder, LR pixels."""
    ref_encoder_px: int
    """Ref encoder, pixels of the 2x grid."""
    align_px: int
    """Offsets and trust of the alignment, pixels of the 2x grid."""
    max_offset_px: int
    """Longest offset that is added to the flow, pixels of the 2x grid."""
    evidence_px: int
    """Evidence for Ref, HR pixels."""
    doubt_px: int
    """Doubt in Ref, HR pixels of that evidence."""
    gates_px: int
    """What the fusion's gates pool, LR pixels."""
    tile_px: int
    """A tile of the result, LR pixels."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a package holds."""

    network: str
    precision: str
    checkpoint_sha256: str
    has_mask: bool
    """Whether a mask chooses the queries."""
    masks_keys: bool
    """Whether it also chooses the keys."""
    has_detail_skip: bool
    tokens: tuple[int, int, int]
    """Heads, tokens and channels of a dictionary; 0 without one. Without heads the first is 0."""
    reaches: Reaches


class Package:
    """The graphs of a package, opened when they are first run.

    Args:
        threads: that a graph may use; 0: as many as there are cores.

    Raises:
        ValueError: no package, one of another format, a damaged file, or no onnxruntime.
    """

    def __init__(self, folder: str | Path, threads: int = 0) -> None:
        self.folder, self.threads = Path(folder), threads
        content = read_manifest(self.folder)
        if content["to"] != "onnx":
            raise ValueError(
                f"{folder}: holds graphs of kind {content['to']!r}, need 'onnx'; export again with "
                "--to onnx"
            )
        if find_spec("onnxruntime") is None:
            raise ValueError("onnxruntime is not installed; pip install 'sddusr[onnx]'")
        self.manifest = from_dict(Manifest, content["network"])
        self.graphs: dict[str, Any] = content["graphs"]
        self._sessions: dict[str, Any] = {}

    def run(self, name: str, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """The outputs of a graph, for inputs in the manifest's order."""
        feeds = {
            spec["name"]: np.asarray(value, spec["dtype"], order="C")
            for spec, value in zip(self.graphs[name]["inputs"], inputs, strict=True)
        }
        return tuple(self._session(name).run(None, feeds))

    def first(self, name: str, *inputs: np.ndarray) -> np.ndarray:
        """The only output of a graph."""
        (output,) = self.run(name, *inputs)
        return output

    def _session(self, name: str) -> Any:
        if name not in self._sessions:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = self.threads
            # Windows differ in size: memory that is kept for one is in the way of the next.
            options.enable_mem_pattern = False
            options.enable_cpu_mem_arena = False
            self._sessions[name] = onnxruntime.InferenceSession(
                self._checked(name), options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[name]

    def _checked(self, name: str) -> bytes:
        content = (self.folder / self.graphs[name]["file"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.graphs[name]["sha256"]:
            raise ValueError(
                f"{self.folder / self.graphs[name]['file']}: not the file that the manifest names; "
                "export the package again"
            )
        return content


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest as JSON.

    Raises:
        ValueError: there is none, or one of another program or format.
    """
    path = Path(folder, MANIFEST)
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder}: no exported package ({type(error).__name__} reading {MANIFEST}); make one "
            "with: sddusr export compact --to onnx --out DIR"
        ) from None
    if not isinstance(content, dict) or content.get("made_by") != MADE_BY:
        raise ValueError(f"{path}: not a manifest of `sddusr export`")
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{path}: format {content.get('format')!r}, this version reads {FORMAT}; export again"
        )
    return content


def hash_package(folder: str | Path) -> str:
    """One hash for a package: its manifest names the hash of every graph."""
    read_manifest(folder)
    return hashlib.sha256(Path(folder, MANIFEST).read_bytes()).hexdigest()
