"""The command `python -m pipelines.tracking RUN`."""

import logging
from contextlib import suppress
from dataclasses import dataclass

import tyro

from pipelines.tracking.background import BackgroundMirror
from pipelines.tracking.client import BusyError, DeletedError, UnreachableError, UnusableError
from pipelines.tracking.links import tracking_uri
from sddusr import storage
from sddusr.cli.command_line import USER_ERRORS
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
    """Folders or URIs of runs, searches or evaluations; among several, others are skipped."""
    tracking_uri: str | None = None
    """MLflow; by default the one that the run was started with."""
    wait_s: float = 60.0
    """Give up after so many seconds in which nothing goes through."""


class NoRunError(FileNotFoundError):
    """A folder that is no run's."""


def main(options: MirrorOptions) -> int:
    """Upload one run after the other; 1 where MLflow still misses something, each named in a line.

    Raises:
        FileNotFoundError: no run is there.
        ValueError, OSError: why the only run that is given cannot be uploaded.
    """
    runs = [RunFolder(storage.absolute(given)) for given in options.runs]
    are_complete, unreachable = [], set()
    for run in sorted(runs, key=_is_evaluation):  # they are shown below training runs
        try:
            are_complete.append(_upload(run, options, unreachable))
        except USER_ERRORS as error:
            if len(runs) == 1:
                raise
            if isinstance(error, NoRunError):
                log.warning("Skipping %s", error)
            else:
                log.error("%s: %s", run.folder, error)
                are_complete.append(False)
    if runs and not are_complete:
        raise NoRunError(f"none of the {len(runs)} folders is a run's; give runs' folders")
    return 0 if all(are_complete) else 1


def _upload(run: RunFolder, options: MirrorOptions, unreachable: set[str]) -> bool:
    """Make MLflow equal to a run folder; whether it then misses nothing.

    Args:
        unreachable: addresses that did not answer for a run before, so that only the first answer
            is waited for; this run's is added.

    Raises:
        NoRunError: the folder is no run's.
        DamagedError: the run's config.json cannot be read.
        ValueError, OSError: MLflow cannot be used, is unreachable, or does not take the run.
    """
    config = run.config()
    if config is None:
        raise NoRunError(f"{run.place(CONFIG)}: no such file; give a run's folder")
    uri = tracking_uri(options.tracking_uri or config.tracking_uri or None)
    mirror = BackgroundMirror(run, uri)
    mirror.check()
    is_sent = mirror.close(options.wait_s if uri not in unreachable or mirror.run_id else 0.0)
    if (error := mirror.error) or not is_sent:
        if not mirror.run_id and type(error) is UnreachableError:
            unreachable.add(uri)
        raise OSError(_reason(uri, error))
    missing = f"{len(mirror.problems)} entries missing" if mirror.problems else "complete"
    print(f"{run.folder}: {missing} in MLflow run {mirror.run_id} at {uri}")
    return not mirror.problems


def _reason(uri: str, error: Exception | None) -> str:
    """Why a run is not uploaded, in words."""
    if isinstance(error, BusyError):
        return str(error)
    if isinstance(error, DeletedError | UnusableError):
        return f"MLflow at {uri} takes nothing ({error!s:.300})"
    if error is None or isinstance(error, UnreachableError):
        return f"MLflow at {uri} is unreachable ({error or 'no answer'!s:.200})"
    return f"the run's folder cannot be mirrored ({error!s:.200})"


def _is_evaluation(run: RunFolder) -> bool:
    with suppress(*USER_ERRORS):
        return read_inputs(run).origin is not None
    return False
