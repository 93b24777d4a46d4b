"""Make MLflow equal to run folders: `python -m pipelines.tracking RUN`."""

from pipelines.tracking.command import MirrorOptions, main
from sddusr.cli import command_line

command_line.run(main, MirrorOptions)
