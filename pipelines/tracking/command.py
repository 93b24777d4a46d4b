"""The command `python -m pipelines.tracking RUN`."""

import logging
from contextlib import suppress
from dataclasses import dataclass

import tyro

from pipelines.tracking.background import BackgroundMirror
from pipelines.tracking.links import tracking_uri
from sddusr import storage
from sddusr.runs.checked_json import DamagedError
from sddusr.runs.inputs import read_inputs
from sddusr.runs.run_folder import CONFIG, RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MirrorOptions:
    """Upload to MLflow what it misses of run folders, such as those of a time without network.

    Running it again uploads nothing twice. Examples:

    python -m pipelines.tracking runs/paper-1a2b3c4d

    python -m pipelines.tracking runs/* --tracking-uri http://mlflow:5000
    """

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Folders or URIs of runs, searches or evaluations."""
    tracking_uri: str | None = None
    """MLflow; by default the one that the run was started with."""
    wait_s: float = 60.0
    """Give up after so many seconds in which nothing goes through."""


def main(options: MirrorOptions) -> int:
    """Upload; 1 where MLflow still misses something, each named in a line.

    Raises:
        FileNotFoundError: no run is there.
        DamagedError: the run's config.json cannot be read.
        OSError: MLflow is unreachable.
    """
    num_problems = 0
    runs = [RunFolder(storage.absolute(given)) for given in options.runs]
    for run in sorted(runs, key=_is_evaluation):  # they are shown below training runs
        config = run.config()
        if config is None:
            raise FileNotFoundError(f"{run.place(CONFIG)}: no such file; give a run's folder")
        uri = tracking_uri(options.tracking_uri or config.tracking_uri or None)
        mirror = BackgroundMirror(run, uri)
        mirror.check()
        if not mirror.close(options.wait_s):
            raise OSError(f"MLflow at {uri} is unreachable ({mirror.error!s:.200})")
        num_problems += len(mirror.problems)
        missing = f"{len(mirror.problems)} entries missing" if mirror.problems else "complete"
        print(f"{run.folder}: {missing} in MLflow run {mirror.run_id} at {uri}")
    return 1 if num_problems else 0


def _is_evaluation(run: RunFolder) -> bool:
    with suppress(DamagedError):
        return read_inputs(run).origin is not None
    return False
