"""Search for a better config with Ray Tune: `python tune/search_tokens.py [PRESET] --data DIR`."""

import sys
from pathlib import Path

if not __package__:  # a script of a checkout, in which only sddusr is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import tune  # noqa: F401  # names what is not installed

import tyro

from pipelines.tracking import links
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
    print(f"results      {result.folder}/results")
    print(f"MLflow       {links.how_to_look(options.tracking_uri)}")
    return 0 if result.best is not None else 1


def command() -> None:
    """Parse the command line; the first word names the preset, `demo` where there is none."""
    presets = {
        name: SearchOptions(preset=name, config=config) for name, (_, config) in PRESETS.items()
    }
    told = {name: description for name, (description, _) in PRESETS.items()}
    args = sys.argv[1:]
    if not args or (args[0] not in presets and args[0] not in ("-h", "--help")):
        args = ["demo", *args]
    command_line.run(main, tyro.extras.subcommand_type_from_defaults(presets, told), args=args)


if __name__ == "__main__":
    from tune.search_tokens import command as imported_command

    imported_command()
