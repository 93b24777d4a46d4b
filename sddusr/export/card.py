"""What a package's graphs take and how near they are to the network, in lines for people."""

from collections.abc import Sequence
from pathlib import Path

from sddusr.export.parity import GraphReport

HEADER = (
    f"{'graph':<16}{'megabytes':>10}{'operators':>11}{'largest error':>15}{'dB':>8}"
    f"{'torch ms':>10}{'graph ms':>10}"
)


def table_row(made: GraphReport) -> str:
    """A graph as a line below `HEADER`."""
    return (
        f"{made.name:<16}{made.num_bytes / 1e6:>10.2f}{sum(made.operators.values()):>11}"
        f"{made.max_error:>15.1e}{made.decibel:>8.1f}{made.torch_ms:>10.2f}{made.graph_ms:>10.2f}"
    )


def write_card(
    folder: str | Path, network: str, precision: str, reports: Sequence[GraphReport]
) -> Path:
    """Write CARD.md beside the graphs and return its path."""
    megabytes = sum(made.num_bytes for made in reports) / 1e6
    lines = [
        f"# {network}, {precision}",
        "",
        f"{len(reports)} graphs, {megabytes:.1f} MB. Largest error: of the graph's largest value.",
        "Times: one run on the sizes that parity was measured with, the fastest of pairs.",
        "",
        "| graph | MB | largest error | dB | torch ms | graph ms | operators |",
        "|---|---|---|---|---|---|---|",
        *(_table_line(made) for made in reports),
        "",
    ]
    path = Path(folder, "CARD.md")
    path.write_text("\n".join(lines))
    return path


def _table_line(made: GraphReport) -> str:
    operators = ", ".join(f"{kind} {count}" for kind, count in made.operators.items())
    return (
        f"| {made.name} | {made.num_bytes / 1e6:.2f} | {made.max_error:.1e} | {made.decibel:.1f} "
        f"| {made.torch_ms:.2f} | {made.graph_ms:.2f} | {operators} |"
    )
