#!/usr/bin/env python3
"""Search for a better config with Ray Tune: `python tune/search_tokens.py [PRESET] --data DIR`."""

import sys
from pathlib import Path

if not __package__:  # a script of a checkout, in which only sddusr is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import tune  # noqa: F401  # names what is not installed

from pipelines.tracking import links
from sddusr import storage
from sddusr.cli import command_line
from sddusr.config import PRESETS
from tune.options import SearchOptions
from tune.search import run_search


def main(options: SearchOptions) -> int:
    """Search and print the table; 1 where no trial gave a network."""
    result = run_search(options)
    print(f"\n{result.table}\n")
    if result.best is not None:
        print(f"best         trial {result.best.number}, {result.best.checkpoint}")
    if not result.is_complete:
        print("unfinished   the same command with --resume goes on")
    print(f"results      {storage.join(result.folder, 'results')}")
    print(f"MLflow       {links.how_to_look(options.tracking_uri)}")
    return 0 if result.best is not None else 1


HELP = """Search for the config with the best full PSNR on held-out training pictures (split val).

The first word is a preset; without one it is demo. A preset's own help lists every flag: python
tune/search_tokens.py paper --help. A space from a .py file runs as code of this process. Examples:

python tune/search_tokens.py paper --data shards --steps 20000

python tune/search_tokens.py --data shards --space mine.yaml --hours 8 --resume
"""


def command() -> None:
    """Parse the command line; the first word names the preset, `demo` where there is none."""
    presets = {
        name: SearchOptions(preset=name, config=config) for name, (_, config) in PRESETS.items()
    }
    described = {name: description for name, (description, _) in PRESETS.items()}
    command_line.run_with_presets(main, presets, described, HELP)


if __name__ == "__main__":
    from tune.search_tokens import command as imported_command

    imported_command()
