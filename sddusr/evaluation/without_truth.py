"""Pictures without HR: metrics that need no truth, of folders of pictures."""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import torch

from sddusr import storage
from sddusr.data.source_files import pictures_by_stem
from sddusr.evaluation.other_metrics import choose, measure_others
from sddusr.evaluation.scoring import EvaluationConfig
from sddusr.evaluation.tables import as_files, with_others
from sddusr.imaging.images import read_rgb
from sddusr.inference import to_tensor

HEAD = pa.schema([("id", pa.string()), ("method", pa.string())])


def score_without_truth(config: EvaluationConfig) -> str:
    """Measure all pictures of `sr_dir` and write tables below `out`; the means as text.

    Raises:
        FileNotFoundError, ValueError: no such folder, no pictures there, or one that cannot be
            read or measured.
    """
    chosen = choose(config.metrics, with_truth=False)
    rows = list(_rows(config, chosen.names))
    table = pa.Table.from_pylist(rows, with_others(HEAD, chosen.names))
    means = []
    for method in config.other_names:
        own = [row for row in rows if row["method"] == method]
        values = {name: sum(row[name] for row in own) / len(own) for name in chosen.names}
        means.append({"method": method, "num_pictures": len(own)} | values)
    width = max(len(method) for method in config.other_names) + 2
    lines = ["pictures without HR; these numbers compare pictures of the same scenes alone"]
    lines.append(f"{'method':{width}}{'pictures':>8}  {'  '.join(chosen.names)}")
    for mean in means:
        cells = [f"{mean[name]:{len(name)}.5f}" for name in chosen.names]
        lines.append(f"{mean['method']:{width}}{mean['num_pictures']:8}  {'  '.join(cells)}")
    text = "\n".join([*lines, *(f"{name}: {why}" for name, why in chosen.notes.items())])
    head = pa.schema([("method", pa.string()), ("num_pictures", pa.int64())])
    files = as_files("per_image", table) | {
        **as_files("means", pa.Table.from_pylist(means, with_others(head, chosen.names))),
        "summary.json": json.dumps({"means": means, "notes": chosen.notes}, indent=1).encode(),
        "table.txt": text.encode(),
    }
    for name, content in files.items():
        storage.write_atomic(storage.join(config.out, name), content)
    return text


def _rows(config: EvaluationConfig, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for method, folder in zip(config.other_names, config.sr_dir, strict=True):
        found = sorted(pictures_by_stem(folder).items())[: config.limit]
        if not found:
            raise ValueError(f"{folder}: no pictures")
        for stem, place in found:
            picture = to_tensor(read_rgb(place).pixels).to(device)
            measured = measure_others(names, picture, None, f"{stem} of {method}")
            yield {"id": stem, "method": method} | measured
