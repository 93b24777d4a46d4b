"""The command `sddusr`: upscale images, describe or export a network, print a schema."""

import json
import logging
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from sddusr import __version__
from sddusr.cli import command_line
from sddusr.cli.progress_bar import ProgressBar
from sddusr.photos.options import UpscaleOptions

DESCRIPTION = """Make a wide image twice as large, with the detail of a telephoto image.

sddusr upscale wide.jpg tele.jpg --out sr.jpg

sddusr upscale wide.heic tele.heic --out sr.png --memory 4GB --explain

sddusr info compact

sddusr export compact --out package

--config FILE, after the command, reads its flags from a YAML or JSON file; flags win over it.
"""


@dataclass(frozen=True, kw_only=True)
class UpscaleCommand(UpscaleOptions):
    """Make a wide image twice as large, with the detail that a tele image has of its centre.

    Beside the result lies a JSON record: what was found, done and needed. Examples:

    sddusr upscale wide.jpg tele.jpg

    sddusr upscale wide.jpg tele.jpg --out sr.png --checkpoint runs/paper-1a2b3c4d

    sddusr upscale wide.tif tele.tif --out sr.tif --memory 4GB --explain

    sddusr upscale wide.jpg tele.jpg --runtime onnx --model package
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
class ExportCommand:
    """Export a trained network as a package of graphs for other runtimes. Examples:

    sddusr export compact --out package

    sddusr export runs/paper-1a2b3c4d --to pt2 --out package

    sddusr export compact --precision float16 --out package
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")] = (
        "compact"
    )
    """A training run's folder, one checkpoint, or the name of a network that ships."""
    to: Literal["onnx", "pt2"] = "onnx"
    """Format of the graphs: ONNX, or programs of torch.export."""
    precision: Literal["float32", "float16"] = "float32"
    """Number format of convolutions and products, and of their weights."""
    out: str
    """Folder of the package; new, empty, or that of an earlier package."""


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
    print(f"parameters  {num_parameters:,}")
    print(f"trained     {progress.get('step', '?')} steps")
    if progress.get("best_step"):
        print(f"best        {progress['best_score']:.3f} dB (val) at step {progress['best_step']}")
    for name, value in flatten(to_dict(checkpoint.config.model)).items():
        print(f"  {name} = {value}")


def export(options: ExportCommand) -> None:
    """Export a network, with a line for each graph."""
    from sddusr.checkpoint import load_model, read_checkpoint
    from sddusr.export.card import HEADER, table_row, write_card
    from sddusr.export.package import export_package
    from sddusr.photos.jobs import hash_checkpoint
    from sddusr.photos.options import find_checkpoint

    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it warns of what it does not fold
    place = find_checkpoint(options.checkpoint)
    config = read_checkpoint(place).config.model
    print(HEADER)
    reports = export_package(
        load_model(place),
        config,
        options.out,
        network=options.checkpoint,
        checkpoint_sha256=hash_checkpoint(place),
        to=options.to,
        precision=options.precision,
        report=lambda made: print(table_row(made), flush=True),
    )
    print(write_card(options.out, options.checkpoint, options.precision, reports))


def schema(options: SchemaCommand) -> None:
    """Print the schema of config files."""
    from sddusr.config.schema import config_schema

    print(json.dumps(config_schema(), indent=1))


Command = UpscaleCommand | InfoCommand | ExportCommand | SchemaCommand


def run(options: Command) -> None:
    logging.getLogger().setLevel(logging.WARNING)  # the bar shows the progress
    if isinstance(options, InfoCommand):
        info(options)
    elif isinstance(options, ExportCommand):
        export(options)
    elif isinstance(options, SchemaCommand):
        schema(options)
    else:
        upscale(options)


def main() -> None:
    """Parse the command line."""
    args = sys.argv[1:]
    if args == ["--version"]:
        print(f"sddusr {__version__}")
        return
    named = next((word for word in args if word in COMMANDS), "upscale")
    args, filled = command_line.with_file(COMMANDS[named], args)
    if args and not args[0].startswith("-") and args[0] not in COMMANDS:
        command_line.refuse(f"no command is named {args[0]!r}, need one of {', '.join(COMMANDS)}")
    kind = _subcommands({named: filled})
    command_line.run(run, kind, args=args or ["--help"], description=DESCRIPTION)


COMMANDS = {
    "upscale": UpscaleCommand,
    "info": InfoCommand,
    "export": ExportCommand,
    "schema": SchemaCommand,
}


def _subcommands(filled: dict[str, Any]) -> Any:
    """The commands as one type.

    Args:
        filled: name -> instance with the defaults of its flags, or None.
    """
    defaults = {name: {"default": each} for name, each in filled.items() if each is not None}
    first, *others = (
        Annotated[kind, tyro.conf.subcommand(name, prefix_name=False, **defaults.get(name, {}))]
        for name, kind in COMMANDS.items()
    )
    union: Any = first
    for other in others:
        union = union | other
    return union


if __name__ == "__main__":
    main()
