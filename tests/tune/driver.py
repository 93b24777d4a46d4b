"""A search in a process and a cluster of its own, to be ended from outside."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from sddusr.cli import command_line
from tests.runs import CONFIG
from tune.options import SearchOptions
from tune.search import run_search

LONG = replace(
    CONFIG,
    train=replace(CONFIG.train, num_steps=60, validate_every=30, log_every=10, checkpoint_every=10),
)


def options(data: str, folder: str, **changes: Any) -> SearchOptions:
    """Three trials, one at a time, of which the second wants larger crops than there are."""
    space = Path(folder, "space.yaml")
    space.write_text("model.dictionary.num-tokens: [4, 8]\ndata.crop-px: [16, 128]\n")
    wanted = SearchOptions(
        data=data,
        space=str(space),
        trials=3,
        concurrent=1,
        cpus_per_trial=1,
        name="search",
        storage=folder,
        tracking_uri=f"sqlite:///{folder}/mlflow.db",
        config=LONG,
    )
    return replace(wanted, **changes)


if __name__ == "__main__":
    try:
        run_search(options(*sys.argv[1:]))
    except command_line.StoppedError as stopped:
        sys.exit(stopped.exit_code)
