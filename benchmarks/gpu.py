"""Everything that a first GPU has to confirm, in one command of at most eight minutes.

    python benchmarks/gpu.py --out FOLDER

Each part runs by itself: what it raises becomes a row, and its rows are in FOLDER/gpu.json as soon
as they are measured. `--device cpu --quick` and `--device pretend` rehearse it without a card; the
latter counts launches and waits instead of seconds. Only `sddusr` and what it needs for training is
imported: no Ray, no MLflow, no network.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import torch  # noqa: E402
from _gpu_parts import PARTS  # noqa: E402
from _gpu_setup import Setup  # noqa: E402

from sddusr.config.arguments import parse_args  # noqa: E402

FILE = "gpu.json"


def main() -> int:
    given = parse_args(_arguments())
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        raise SystemExit(f"--parts has {sorted(unknown)}, need some of {', '.join(PARTS)}")
    device = torch.device("cpu" if given.device == "cpu" else "cuda")
    setup = Setup(device, given.quick, given.device == "pretend")
    given.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for row in _all_rows(given.parts or list(PARTS), setup):
        rows.append(row)
        print(json.dumps(row), flush=True)
        _write(given.out / FILE, rows)
    return 1 if any("error" in row or row.get("passes") is False for row in rows) else 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json")
    parser.add_argument("--device", choices=("cuda", "cpu", "pretend"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, to rehearse")
    parser.add_argument("--parts", nargs="*", default=[], help=", ".join(PARTS))
    return parser


def _all_rows(parts: list[str], setup: Setup) -> Iterator[dict[str, Any]]:
    yield {"part": "machine", **setup.describe()}
    for name in parts:
        started = time.perf_counter()
        try:
            for row in PARTS[name](setup):
                yield {"part": name, **row}
        except Exception as error:
            traceback.print_exc()
            yield {"part": name, "error": f"{type(error).__name__}: {error}"[:300]}
        yield {"part": name, "seconds": round(time.perf_counter() - started, 2)}
        if setup.device.type == "cuda" and not setup.is_pretend:
            torch.cuda.empty_cache()


def _write(place: Path, rows: list[dict[str, Any]]) -> None:
    """Whole at any time."""
    temporary = place.with_suffix(".tmp")
    temporary.write_text(json.dumps(rows, indent=1) + "\n")
    temporary.replace(place)


if __name__ == "__main__":
    raise SystemExit(main())
