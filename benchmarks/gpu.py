"""Everything that a first GPU has to confirm, in one command of at most eight minutes.

    python benchmarks/gpu.py --out FOLDER

Each part runs by itself: what it raises becomes a row, and its rows are in FOLDER/gpu.json as soon
as they are measured; after `--minutes` no part is begun. `--device cpu --quick` and `--device
pretend` rehearse it without a card; the latter counts launches and waits instead of seconds. Only
`sddusr` and what it needs for training is imported: no Ray, no MLflow, no network.

`python benchmarks/gpu.py --table FOLDER/gpu.json` prints the rows as tables for docs/speed.md.
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
    if given.table:
        print(tables(json.loads(given.table.read_text())), end="")
        return 0
    if given.out is None:
        raise SystemExit("--out is missing, need a folder for gpu.json")
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        raise SystemExit(f"--parts has {sorted(unknown)}, need some of {', '.join(PARTS)}")
    device = torch.device("cpu" if given.device == "cpu" else "cuda")
    setup = Setup(device, given.quick, given.device == "pretend")
    given.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for row in all_rows(given.parts or list(PARTS), setup, 60 * given.minutes):
        rows.append(row)
        print(json.dumps(row), flush=True)
        _write(given.out / FILE, rows)
    return 1 if any("raised" in row or row.get("passes") is False for row in rows) else 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for gpu.json")
    parser.add_argument("--table", type=Path, help="print this gpu.json as tables")
    parser.add_argument("--minutes", type=float, default=8.0, help="no part is begun after these")
    parser.add_argument("--device", choices=("cuda", "cpu", "pretend"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, to rehearse")
    parser.add_argument("--parts", nargs="*", default=[], help=", ".join(PARTS))
    return parser


def all_rows(parts: list[str], setup: Setup, limit_s: float) -> Iterator[dict[str, Any]]:
    """The rows of each part, as they are measured."""
    yield {"part": "machine", **setup.describe()}
    begun = time.perf_counter()
    for name in parts:
        started = time.perf_counter()
        if started - begun > limit_s:
            yield {"part": name, "skipped": f"{limit_s / 60:g} minutes have passed"}
            continue
        try:
            for row in PARTS[name](setup):
                yield {"part": name, **row}
                if time.perf_counter() - begun > limit_s:
                    yield {"part": name, "skipped": "time limit reached"}
                    break
        except Exception as error:
            traceback.print_exc()
            yield {"part": name, "raised": f"{type(error).__name__}: {error}"[:300]}
        yield {"part": name, "seconds": round(time.perf_counter() - started, 2)}
        if setup.device.type == "cuda" and not setup.is_pretend:
            torch.cuda.empty_cache()


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: a table for each part, with the columns that its rows have."""
    parts = dict.fromkeys(row["part"] for row in rows)
    return "\n".join(_table(part, [row for row in rows if row["part"] == part]) for part in parts)


def _table(part: str, rows: list[dict[str, Any]]) -> str:
    seconds = [row["seconds"] for row in rows if set(row) == {"part", "seconds"}]
    rows = [row for row in rows if set(row) != {"part", "seconds"}]
    names = list(dict.fromkeys(name for row in rows for name in row if name != "part"))
    lines = [[_cell(row.get(name)) for name in names] for row in rows]
    head = [names, ["---"] * len(names), *lines]
    title = f"**{part}**" + "".join(f", {s:g} s" for s in seconds)
    return "\n".join([title, "", *(f"| {' | '.join(line)} |" for line in head), ""])


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else str(value).replace("|", "/")


def _write(place: Path, rows: list[dict[str, Any]]) -> None:
    """Whole at any time."""
    temporary = place.with_suffix(".tmp")
    temporary.write_text(json.dumps(rows, indent=1) + "\n")
    temporary.replace(place)


if __name__ == "__main__":
    raise SystemExit(main())
