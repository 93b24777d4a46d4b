"""Export a network as a package of graphs with a manifest, and check each against the network."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sddusr.config import ModelConfig, to_dict
from sddusr.export.lowering import ExportPrecision, halve_weights, lower
from sddusr.export.parity import (
    OTHER_SIDES,
    SIDES,
    GraphReport,
    Run,
    as_tuple,
    check_parity,
    compare,
    time_pairs,
)
from sddusr.export.reaches import measure_reaches
from sddusr.export.specs import GraphSpec, list_graphs
from sddusr.model.sddusr import SDDuSR
from sddusr.portable.package import FORMAT, MADE_BY, MANIFEST, Manifest

Target = Literal["onnx", "pt2"]


def export_package(
    model: SDDuSR,
    config: ModelConfig,
    out: str | Path,
    *,
    network: str,
    checkpoint_sha256: str,
    to: Target = "onnx",
    precision: ExportPrecision = "float32",
    report: Callable[[GraphReport], None] = lambda made: None,
) -> list[GraphReport]:
    """Write the package; it takes its place when all graphs are written and checked.

    Args:
        out: a folder that does not exist or is empty, or holds an earlier package.
        network: its name, for the record.
        report: receives each graph as it is done.

    Raises:
        ValueError: the folder holds something else, or a graph differs too much from the network.
    """
    if to == "onnx":
        _require_onnx()
    _check_folder(Path(out))
    specs = list_graphs(model.eval().requires_grad_(False), config)
    folder = Path(f"{Path(out)}.part")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        reports = _export_graphs(specs, folder, to, precision, report)
    except BaseException:
        shutil.rmtree(folder)
        raise
    content = {
        "made_by": MADE_BY,
        "format": FORMAT,
        "to": to,
        "network": asdict(describe_network(model, config, network, precision, checkpoint_sha256)),
        "model": to_dict(config),
        "graphs": {
            spec.name: _describe(spec, made, folder)
            for spec, made in zip(specs, reports, strict=True)
        },
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=1))
    shutil.rmtree(out, ignore_errors=True)
    folder.rename(out)
    return reports


def _export_graphs(
    specs: Sequence[GraphSpec],
    folder: Path,
    to: Target,
    precision: ExportPrecision,
    report: Callable[[GraphReport], None],
) -> list[GraphReport]:
    reports = []
    for spec in specs:
        made = _export_graph(spec, folder, to, precision)
        report(made)
        check_parity(made, precision)
        reports.append(made)
    return reports


def _require_onnx() -> None:
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if not find_spec(name)]:
        raise ValueError(f"{', '.join(missing)} not installed; pip install 'sddusr[onnx]'")


def _check_folder(folder: Path) -> None:
    """Refuse a place that holds anything but an earlier package."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; choose another --out")
    if folder.is_dir() and any(folder.iterdir()):
        try:
            own = json.loads((folder / MANIFEST).read_bytes()).get("made_by") == MADE_BY
        except (OSError, ValueError, AttributeError):
            own = False
        if not own:
            raise ValueError(f"{folder}: holds files that are no package; choose another --out")


def _export_graph(
    spec: GraphSpec, folder: Path, to: Target, precision: ExportPrecision
) -> GraphReport:
    program = lower(spec, SIDES, precision)
    path = folder / f"{spec.name}.{to}"
    if to == "onnx":
        operators = _save_onnx(spec, program, path)
    else:
        torch.export.save(program, path)
        operators = Counter(
            str(node.target).removeprefix("aten.")
            for node in program.graph.nodes
            if node.op == "call_function"
        )
    run = _open_onnx(spec, path) if to == "onnx" else _open_program(path)
    errors = [compare(spec, run, sides, seed) for seed, sides in enumerate((SIDES, OTHER_SIDES))]
    torch_ms, graph_ms = time_pairs(spec, run)
    return GraphReport(
        name=spec.name,
        file=path.name,
        num_bytes=path.stat().st_size,
        operators=dict(operators.most_common()),
        max_error=max(error for error, _ in errors),
        decibel=min(decibel for _, decibel in errors),
        torch_ms=torch_ms,
        graph_ms=graph_ms,
    )


def _save_onnx(spec: GraphSpec, program: torch.export.ExportedProgram, path: Path) -> Counter[str]:
    """Write an ONNX file with its weights inside; returns its operators."""
    from onnx_ir.traversal import RecursiveGraphIterator

    made = torch.onnx.export(
        program,
        dynamo=True,
        input_names=[put.name for put in spec.inputs],
        output_names=list(spec.outputs),
        verbose=False,
    )
    assert made is not None
    halve_weights(made.model)
    made.save(path)
    return Counter(node.op_type for node in RecursiveGraphIterator(made.model.graph))


def _open_onnx(spec: GraphSpec, path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: tuple[Tensor, ...]) -> tuple[np.ndarray, ...]:
        names = (put.name for put in spec.inputs)
        given = dict(zip(names, (x.numpy() for x in inputs), strict=True))
        return tuple(np.asarray(each) for each in session.run(None, given))

    return run


def _open_program(path: Path) -> Run:
    module = torch.export.load(path).module()

    def run(inputs: tuple[Tensor, ...]) -> tuple[np.ndarray, ...]:
        with torch.no_grad():
            return tuple(x.numpy() for x in as_tuple(module(*inputs)))

    return run


def _describe(spec: GraphSpec, made: GraphReport, folder: Path) -> dict[str, Any]:
    """A graph's entry in the manifest."""
    return {
        "file": made.file,
        "sha256": hashlib.sha256((folder / made.file).read_bytes()).hexdigest(),
        "what": (spec.module.__doc__ or "").splitlines()[0],
        "inputs": [
            {
                "name": put.name,
                "shape": list(put.shape),
                "dtype": str(put.dtype).removeprefix("torch."),
            }
            for put in spec.inputs
        ],
        "outputs": list(spec.outputs),
        "max_error": made.max_error,
        "operators": made.operators,
    }


def describe_network(
    model: SDDuSR,
    config: ModelConfig,
    network: str,
    precision: ExportPrecision,
    checkpoint_sha256: str,
) -> Manifest:
    """What a runtime has to know of a network beside its graphs."""
    words = config.dictionary
    tokens = (words.num_heads if words.norm else 0, words.num_tokens, config.dim)
    return Manifest(
        network=network,
        precision=precision,
        checkpoint_sha256=checkpoint_sha256,
        has_mask=config.mask.enabled,
        masks_keys=config.mask.mask_keys,
        has_detail_skip=config.detail.enabled,
        tokens=tokens if words.enabled else (0, 0, 0),
        reaches=measure_reaches(model),
    )
