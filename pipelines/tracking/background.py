"""Threads that keep MLflow equal to a run folder, and wait while MLflow is unreachable."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipelines.tracking.client import (
    BusyError,
    DeletedError,
    UnreachableError,
    UnusableError,
)
from pipelines.tracking.files import FileMirror
from pipelines.tracking.links import PARENT_TAG, source_tags
from pipelines.tracking.mirror import Mirror
from sddusr import storage
from sddusr.cli.command_line import StoppedError
from sddusr.runs.inputs import RunInputs, write_inputs
from sddusr.runs.run_folder import RunFolder

POLL_S, BUCKET_POLL_S = 1.0, 5.0
"""Between two looks into a folder, local or in a bucket."""

FIRST_WAIT_S, LONGEST_WAIT_S, LAST_WAIT_S = 1.0, 60.0, 2.0
"""After a failure: doubled each time nothing goes through; never long while the end is awaited."""

START_WAIT_S = 20.0
"""How long a start waits for MLflow's first answer; creating a database takes 2 to 7 s."""

END_WAIT_S = 60.0
"""How long the end of a command waits for an MLflow that is unreachable."""

log = logging.getLogger(__name__)


class BackgroundMirror:
    """Mirrors a run folder and the trials in it until it is closed.

    Two threads: metrics, parameters and state in one, images, artifacts and models in the other.
    """

    def __init__(self, run: RunFolder, uri: str) -> None:
        self.run, self.uri = run, uri
        self._errors: dict[str, Exception] = {}
        self._mirrors: dict[str, Mirror] = {}
        self._files: dict[str, FileMirror] = {}
        self._guard = threading.Lock()
        self._first, self._closing, self._abandoned = (threading.Event() for _ in range(3))
        self._wake = {"metrics": threading.Event(), "files": threading.Event()}
        passes = {"metrics": self._sync_metrics, "files": self._sync_files}
        self._threads = [
            threading.Thread(
                target=self._run, args=(name, work), daemon=True, name=f"mirror {name}"
            )
            for name, work in passes.items()
        ]
        for thread in self._threads:
            thread.start()

    @property
    def error(self) -> Exception | None:
        """Why the last attempt failed; None after one that did not."""
        return self._errors.get("metrics") or self._errors.get("files")

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; empty until MLflow has answered."""
        with self._guard:
            mirror = self._mirrors.get(self.run.folder)
        return mirror.run_id if mirror else ""

    @property
    def problems(self) -> dict[str, str]:
        """What MLflow misses though it answers, and why."""
        with self._guard:
            mirrors = list(self._mirrors.values())
        return {what: why for mirror in mirrors for what, why in mirror.problems.items()}

    def check(self) -> None:
        """Wait for MLflow's first answer, or find out that it is unreachable.

        Raises:
            ValueError: it answers that it cannot be used.
        """
        self._first.wait(START_WAIT_S)
        if isinstance(self.error, UnusableError):
            error = self.error
            self._stop()
            raise ValueError(
                f"MLflow at {self.uri} cannot be used: {error!s:.300}; or give another "
                f"--tracking-uri, such as sqlite:///mlflow.db"
            )

    def close(self, wait_s: float = END_WAIT_S) -> bool:
        """Send what is left, for as long as things go through and `wait_s` beyond; whether all
        is sent."""
        self._stop()
        sent, deadline = self._num_sent(), time.monotonic() + wait_s
        while any(thread.is_alive() for thread in self._threads):
            if (now_sent := self._num_sent()) > sent:
                sent, deadline = now_sent, time.monotonic() + wait_s
            if time.monotonic() > deadline:
                self._abandoned.set()
                self._report_rest()
                return False
            for thread in self._threads:
                thread.join(0.02)
        return True

    def _stop(self) -> None:
        self._closing.set()
        for event in self._wake.values():
            event.set()

    def _report_rest(self) -> None:
        log.warning(
            "MLflow at %s misses a part of %s (%.200s); upload it later with: "
            "python -m pipelines.tracking %s",
            self.uri,
            self.run.folder,
            self.error or "no answer",
            self.run.folder,
        )

    def _num_sent(self) -> int:
        with self._guard:
            return sum(mirror.num_sent for mirror in self._mirrors.values())

    # --- in the threads ----------------------------------------------------------------------

    def _run(self, name: str, work: Callable[[], None]) -> None:
        try:
            self._loop(name, work)
        finally:
            if name == "metrics":
                for mirror in list(self._mirrors.values()):
                    mirror.close()

    def _loop(self, name: str, work: Callable[[], None]) -> None:
        """Look, send, wait, until a pass that began after `close` has sent all."""
        wait_s, poll_s = (
            FIRST_WAIT_S,
            POLL_S if storage.is_local(self.run.folder) else BUCKET_POLL_S,
        )
        while not self._abandoned.is_set():
            is_last, sent = self._closing.is_set(), self._num_sent()
            try:
                work()
            except UnreachableError as error:
                self._report(name, error)
                wait_s = (
                    FIRST_WAIT_S if self._num_sent() > sent else min(2 * wait_s, LONGEST_WAIT_S)
                )
                self._pause(name, min(wait_s, LAST_WAIT_S) if self._closing.is_set() else wait_s)
                if isinstance(error, UnusableError) and self._closing.is_set():
                    return
            except OSError as error:  # of the folder, such as a full disk
                if self._errors.get(name) is None:
                    log.warning("%s is not mirrored to MLflow: %s", self.run.folder, error)
                self._errors[name] = error
                if is_last:
                    return
                self._pause(name, LAST_WAIT_S)
            except Exception as error:  # whatever happens here, training goes on
                self._errors[name] = error
                log.exception("Mirroring %s to MLflow failed", self.run.folder)
                if self._closing.is_set():
                    return
                self._pause(name, LONGEST_WAIT_S)
            else:
                if self._errors.pop(name, None) and name == "metrics":
                    log.info("MLflow at %s answers again; what waited is sent", self.uri)
                wait_s = FIRST_WAIT_S
                if is_last:
                    return
                self._pause(name, poll_s)

    def _report(self, name: str, error: UnreachableError) -> None:
        is_new = isinstance(self._errors.get(name), BusyError | type(None))
        if name == "metrics" and is_new and not isinstance(error, BusyError):
            log.warning(
                "MLflow at %s %s (%.200s); metrics stay in %s and are uploaded later",
                self.uri,
                "takes nothing" if isinstance(error, DeletedError) else "is unreachable",
                error,
                self.run.folder,
            )
        self._errors[name] = error
        if name == "metrics":
            self._first.set()

    def _pause(self, name: str, seconds: float) -> None:
        if self._wake[name].wait(seconds):
            self._wake[name].clear()

    def _sync_metrics(self) -> None:
        root = self._mirror(self.run, None)
        root.sync()
        self._first.set()
        for trial in self.run.trials():
            self._mirror(trial, root).sync()

    def _sync_files(self) -> None:
        with self._guard:
            mirrors = list(self._mirrors.values())
        for mirror in mirrors:
            if mirror.run.folder not in self._files:
                self._files[mirror.run.folder] = FileMirror(mirror)
            self._files[mirror.run.folder].sync()
        if self._closing.is_set() and len(mirrors) <= len(self.run.trials()):
            raise BusyError("runs of this folder are not created yet")

    def _mirror(self, run: RunFolder, parent: Mirror | None) -> Mirror:
        with self._guard:
            if run.folder not in self._mirrors:
                self._mirrors[run.folder] = Mirror(run, self.uri, parent)
            return self._mirrors[run.folder]


def describe(
    run: RunFolder,
    uri: str,
    *,
    name: str,
    experiment: str,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    parent: str = "",
    inputs: RunInputs | None = None,
) -> None:
    """Say what a run is and where it is mirrored.

    Args:
        parent: MLflow run that it is shown below.
        inputs: what it starts from.
    """
    run.describe(
        name=name,
        experiment=experiment,
        params=params or {},
        tags={**(tags or {}), **({PARENT_TAG: parent} if parent else {})},
        source=source_tags(),
        tracking_uri=uri,
    )
    if inputs is not None:
        write_inputs(run, inputs)


@contextmanager
def mirrored(run: RunFolder, uri: str, wait_s: float = END_WAIT_S) -> Iterator[BackgroundMirror]:
    """Mirror a run while it goes on; its state says how it ended: paused where it was asked to
    end and saved.

    Raises:
        ValueError: MLflow answers that it cannot be used.
        OSError: the run's folder cannot be written.
    """
    mirror = BackgroundMirror(run, uri)
    mirror.check()
    try:
        run.set_state("running")
        yield mirror
        run.set_state("finished")
    except StoppedError as stopped:
        run.set_state("paused", str(stopped))
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        run.set_state("failed", reason)
        raise
    finally:
        mirror.close(wait_s)


def mirror(folder: str, uri: str, wait_s: float = END_WAIT_S) -> str:
    """Make MLflow equal to a run folder; the MLflow run's id, empty while MLflow is unreachable."""
    background = BackgroundMirror(RunFolder(folder), uri)
    background.close(wait_s)
    return background.run_id
