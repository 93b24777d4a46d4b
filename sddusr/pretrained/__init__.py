"""The trained network that comes with the package, and how one is made to be handed on.

`python -m sddusr.pretrained RUN --out FOLDER` keeps of a run's checkpoint what inference needs.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sddusr.checkpoint import read_checkpoint, write_checkpoint
from sddusr.config.arguments import parse_args

COMPACT = str(Path(__file__).parent / "compact")
"""Preset `compact`; data, licences, command, scores and limits stand in its CARD.md."""

DEFAULT = "compact"

NAMES = {DEFAULT: COMPACT}
"""Name of a network that ships -> its folder."""

CENTER, SCALE = "trust.match_center", "trust.match_scale"
"""Weights of the logistic of a match's confidence."""


def export(checkpoint: str, out: str, match_center: float | None = None) -> None:
    """Write the network of a checkpoint or run, with its config but without what training goes on
    with. No run resumes from it; `--train.init-from` starts from it.

    Args:
        match_center: see `center_matches`; None leaves the learned ones.

    Raises:
        FileNotFoundError, ValueError: no whole checkpoint is there, or it trusts no matches.
    """
    found = read_checkpoint(checkpoint)
    if match_center is not None:
        center_matches(found.model_state, match_center)
    train = found.config.train
    start = Path(train.init_from).name  # a path of one machine says nothing on another
    write_checkpoint(
        out,
        config=replace(found.config, train=replace(train, init_from=start)),
        progress=found.progress,
        model_state=found.model_state,
        train_state=None,
    )


def center_matches(state: dict[str, Tensor], center: float) -> None:
    """Set the confidence at which a match is half trusted; the trust of a twin stays.

    A training crop holds a hundredth of an image's keys. Among more keys a wrong one comes closer,
    so what crops taught is too low for images; held-out images tell the right one.

    Raises:
        ValueError: a network without a detail skip, or a center that is no confidence below 1.
    """
    if CENTER not in state:
        raise ValueError("the network has no detail skip to weigh matches by; drop --match-center")
    if not 0 < center < 1:
        raise ValueError(f"--match-center is {center:g}, need more than 0 and less than 1")
    old = state[CENTER]
    state[SCALE] = state[SCALE] + ((1 - old) / (1 - center)).log()
    state[CENTER] = torch.full_like(old, center)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sddusr.pretrained", description=__doc__)
    parser.add_argument("checkpoint", metavar="RUN", help="a run's folder or one checkpoint")
    parser.add_argument("--out", required=True, help="folder")
    parser.add_argument(
        "--match-center",
        type=float,
        help="confidence at which a match is half trusted, chosen on held-out images "
        "(default: as learned on crops)",
    )
    given = parse_args(parser)
    try:
        export(given.checkpoint, given.out, given.match_center)
    except (ValueError, OSError) as error:
        parser.error(str(error))
