"""The trained network that comes with the package, and how one is made to be handed on.

`python -m sddusr.pretrained RUN --out FOLDER` keeps of a run's checkpoint what inference needs.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from sddusr.checkpoint import read_checkpoint, write_checkpoint

COMPACT = str(Path(__file__).parent / "compact")
"""Preset `compact`; data, licences, command, scores and limits stand in its CARD.md."""

DEFAULT = "compact"

NAMES = {DEFAULT: COMPACT}
"""Name of a network that ships -> its folder."""


def export(checkpoint: str, out: str) -> None:
    """Write the network of a checkpoint or run, with its config but without what training goes on
    with. No run resumes from it; `--train.init-from` starts from it.

    Raises:
        FileNotFoundError, ValueError: no whole checkpoint is there.
    """
    found = read_checkpoint(checkpoint)
    train = found.config.train
    start = Path(train.init_from).name  # a path of one machine says nothing on another
    write_checkpoint(
        out,
        config=replace(found.config, train=replace(train, init_from=start)),
        progress=found.progress,
        model_state=found.model_state,
        train_state=None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=export.__doc__)
    parser.add_argument("checkpoint", metavar="RUN", help="a run's folder or one checkpoint")
    parser.add_argument("--out", required=True, help="folder")
    given = parser.parse_args()
    try:
        export(given.checkpoint, given.out)
    except (ValueError, OSError) as error:
        parser.error(str(error))
