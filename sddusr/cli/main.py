"""The command `sddusr`: upscale a pair of images, describe a network, print the config's schema."""

import json
import logging
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from sddusr import __version__
from sddusr.cli import command_line
from sddusr.cli.progress_bar import ProgressBar
from sddusr.photos.options import UpscaleOptions

DESCRIPTION = """Make a wide image twice as large, with the detail of a telephoto image.

sddusr upscale wide.jpg tele.jpg --out sr.jpg

sddusr upscale wide.heic tele.heic --out sr.png --memory 4GB --explain

sddusr info compact
"""


@dataclass(frozen=True, kw_only=True)
class UpscaleCommand(UpscaleOptions):
    """Make a wide image twice as large, with the detail that a tele image has of its centre.

    Beside the result lies a JSON record: what was found, done and needed. Examples:

    sddusr upscale wide.jpg tele.jpg

    sddusr upscale wide.jpg tele.jpg --out sr.png --checkpoint runs/paper-1a2b3c4d

    sddusr upscale wide.tif tele.tif --out sr.tif --memory 4GB --explain
    """

    wide: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="WIDE")]
    """The wide image."""
    tele: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TELE")]
    """A tele image of the same scene; it is found in the wide one."""
    out: str = "sr.png"
    """The result; its extension is its format."""


@dataclass(frozen=True, kw_only=True)
class InfoCommand:
    """Describe a trained network. Examples:

    sddusr info

    sddusr info runs/paper-1a2b3c4d

    sddusr info s3://bucket/runs/paper-1a2b3c4d
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")] = (
        "compact"
    )
    """A training run's folder, one checkpoint, or the name of a network that ships."""


@dataclass(frozen=True, kw_only=True)
class SchemaCommand:
    """Print the JSON schema of config files (--config), for editors. Example:

    sddusr schema > sddusr.schema.json
    """


def upscale(options: UpscaleCommand) -> None:
    """Upscale one pair, with a progress bar."""
    from sddusr.photos.api import upscale as upscale_pair
    from sddusr.photos.sidecar import describe

    shared = {name: getattr(options, name) for name in UpscaleOptions.__dataclass_fields__}
    bar = ProgressBar(options.out)
    try:
        result = upscale_pair(
            options.wide, options.tele, options.out, progress=bar.report, **shared
        )
    finally:
        bar.close()
    print(result.path)
    for line in describe(result.record):
        print(f"  {line}")


def info(options: InfoCommand) -> None:
    """Print a network's shape and training."""
    from sddusr.checkpoint import read_checkpoint
    from sddusr.config import flatten, to_dict
    from sddusr.photos.options import find_checkpoint

    checkpoint = read_checkpoint(find_checkpoint(options.checkpoint))
    num_parameters = sum(value.numel() for value in checkpoint.model_state.values())
    progress = checkpoint.progress
    print(f"checkpoint  {checkpoint.place}")
    print(f"numbers     {num_parameters:,}")
    print(f"trained     {progress.get('step', '?')} steps")
    if progress.get("best_step"):
        print(f"best        {progress['best_score']:.3f} dB (val) at step {progress['best_step']}")
    for name, value in flatten(to_dict(checkpoint.config.model)).items():
        print(f"  {name} = {value}")


def schema() -> None:
    """Print the schema of config files."""
    from sddusr.config.schema import config_schema

    print(json.dumps(config_schema(), indent=1))


def run(options: UpscaleCommand | InfoCommand | SchemaCommand) -> None:
    logging.getLogger().setLevel(logging.WARNING)  # the bar shows the progress
    if isinstance(options, InfoCommand):
        info(options)
    elif isinstance(options, SchemaCommand):
        schema()
    else:
        upscale(options)


def main() -> None:
    """Parse the command line."""
    args = sys.argv[1:]
    if args == ["--version"]:
        print(f"sddusr {__version__}")
        return
    commands = {"upscale": UpscaleCommand, "info": InfoCommand, "schema": SchemaCommand}
    if args and not args[0].startswith("-") and args[0] not in commands:
        command_line.refuse(f"no command is named {args[0]!r}, need one of {', '.join(commands)}")
    command_line.run(run, _subcommands(), args=args or ["--help"], description=DESCRIPTION)


def _subcommands() -> Any:
    upscale_kind = Annotated[UpscaleCommand, tyro.conf.subcommand("upscale", prefix_name=False)]
    info_kind = Annotated[InfoCommand, tyro.conf.subcommand("info", prefix_name=False)]
    schema_kind = Annotated[SchemaCommand, tyro.conf.subcommand("schema", prefix_name=False)]
    return upscale_kind | info_kind | schema_kind


if __name__ == "__main__":
    main()
