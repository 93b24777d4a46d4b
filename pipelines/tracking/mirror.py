"""One run folder's metrics in MLflow: parameters, tags, each (metric, step) once, the run's state.

The folder is the truth and MLflow a view of it. A mirror may run any number of times, in any
process: it finds or creates the MLflow run by its key, asks which steps MLflow has, and sends the
rest. The first value of a (metric, step) stays: a resumed run repeats steps, and changes none.
"""

import fcntl
import logging
import os
from typing import Any

from pipelines.tracking import client as mlflow
from pipelines.tracking.client import (
    BusyError,
    DeletedError,
    RefusedError,
    UnusableError,
    translated,
)
from pipelines.tracking.inputs import InputSender
from pipelines.tracking.links import KEY_TAG, PARENT_TAG, database_path
from pipelines.tracking.metrics import MetricSender, chunks
from sddusr import storage
from sddusr.runs.checked_json import DamagedError
from sddusr.runs.run_folder import (
    CONFIG,
    FINAL,
    LOCK,
    MLFLOW,
    STATUS,
    RunConfig,
    RunFolder,
    State,
    Status,
    Version,
)

MAX_PARAMS_PER_CALL = 100

MLFLOW_STATE: dict[State, str] = {
    "created": "RUNNING",
    "running": "RUNNING",
    "paused": "KILLED",
    "finished": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
}

log = logging.getLogger(__name__)


class Mirror:
    """Sends what one run folder holds and its MLflow run does not.

    Args:
        parent: of the run that this one is shown below.
    """

    def __init__(self, run: RunFolder, uri: str, parent: "Mirror | None" = None) -> None:
        self.run, self.uri, self.parent = run, uri, parent
        self.run_id = ""
        """MLflow's; empty until MLflow has answered."""
        self.num_sent = 0
        """Calls that succeeded."""
        self.problems: dict[str, str] = {}
        """Place or metric -> why it is missing in MLflow."""
        self._client: Any = None
        self._lock: int | None = None
        self._config: tuple[Version, RunConfig] | None = None
        self._described: Any = None
        self._state = ""
        self.is_new = False
        """Whether this process created the MLflow run."""
        self._metrics, self._inputs = MetricSender(self), InputSender(self)
        self._settled: Any = None

    def sync(self) -> None:
        """Send what is missing.

        Raises:
            UnreachableError: MLflow does not answer now; the next call goes on from here.
            UnusableError: MLflow answers that it cannot be used.
        """
        versions = (self.run.version(CONFIG), self.run.version(STATUS))
        if self.parent is not None and self._settled == versions:
            return
        config = self._read_config()
        if config is None:
            return
        self._take_lock()
        self._open(config)
        status = self._read_status()
        self._describe(config, status)
        self._metrics.send_rows()
        self._inputs.send()
        self._set_state(MLFLOW_STATE[status.state] if status else "RUNNING", status)
        is_over = status is not None and status.state in FINAL
        self._settled = versions if is_over else None

    # --- the run -----------------------------------------------------------------------------

    def _read_config(self) -> RunConfig | None:
        version = self.run.version(CONFIG)
        if version is None:
            return None
        if self._config is None or self._config[0] != version:
            try:
                config = self.run.config()
            except DamagedError as error:
                self.report(error.place, str(error))
                return None
            if config is None:
                return None
            self._config = version, config
        return self._config[1]

    def _read_status(self) -> Status | None:
        try:
            return self.run.status()
        except DamagedError as error:
            self.report(error.place, str(error))
            return None

    def report(self, what: str, why: str) -> None:
        """Name once what MLflow misses."""
        if self.problems.get(what) != why:
            self.problems[what] = why
            log.warning("MLflow misses %s", why if what in why else f"{what}: {why}")

    def _take_lock(self) -> None:
        """Be the one process that mirrors the folder; a folder in a bucket has no lock.

        Raises:
            BusyError: another process mirrors it.
        """
        if self._lock is not None or not storage.is_local(self.run.folder):
            return
        lock = os.open(self.run.place(LOCK), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise BusyError("another process mirrors this run") from None
        self._lock = lock

    def close(self) -> None:
        """Let another process mirror the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def client(self) -> Any:
        """One client for each mirror; MLflow's are cheap."""
        if self._client is None:
            self._client = mlflow.make_client(self.uri)
        return self._client

    def _open(self, config: RunConfig) -> None:
        if self.run_id:
            return
        noted = self.noted()
        known = noted.get("run_id", "") if noted.get("key") == config.key else ""
        run_id = translated(lambda: self._find(config, known), is_opening=True)
        if noted.get("run_id") != run_id:
            self.note({"tracking_uri": self.uri, "run_id": run_id, "key": config.key})
        self.num_sent += 1
        self.run_id = run_id

    def _find(self, config: RunConfig, known: str) -> str:
        if known and self._is_known(known):
            return known
        experiment_id = self._experiment_id(config.experiment)
        found = self.client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{config.key}'")
        if found:
            return found[0].info.run_id
        run = self.client.create_run(
            experiment_id,
            start_time=config.created_ms,
            run_name=config.name,
            tags={**config.source, **config.tags, **self._parent_tag(), KEY_TAG: config.key},
        )
        self.is_new = True
        return run.info.run_id

    def _is_known(self, run_id: str) -> bool:
        return mlflow.is_active(self.client, run_id)

    def _experiment_id(self, name: str) -> str:
        """The experiment's id; with SQLite its files lie beside the database."""
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage != "active":
                raise UnusableError(
                    f"experiment {name!r} was deleted there; bring it back with `mlflow "
                    f"experiments restore --experiment-id {found.experiment_id}`, or give "
                    f"another --experiment"
                )
            return found.experiment_id
        location = None
        if self.uri.startswith("sqlite:"):
            folder = database_path(self.uri).parent / "mlartifacts" / name
            location = folder.absolute().as_uri()
        return self.client.create_experiment(name, artifact_location=location)

    def noted(self) -> dict[str, Any]:
        """What the folder says about its MLflow run; empty where that is another store's."""
        try:
            noted = self.run.read(MLFLOW) or {}
        except DamagedError:
            return {}  # the key finds the run
        return noted if noted.get("tracking_uri") == self.uri else {}

    def note(self, content: dict[str, Any]) -> None:
        self.run.write(MLFLOW, content)

    def _parent_tag(self) -> dict[str, str]:
        return {PARENT_TAG: self.parent.run_id} if self.parent and self.parent.run_id else {}

    # --- parameters, tags, state -------------------------------------------------------------

    def _describe(self, config: RunConfig, status: Status | None) -> None:
        tags = {**config.tags, **self._parent_tag()}
        if status is not None and status.state in FINAL:
            tags |= {"sddusr.status": status.state, "sddusr.reason": status.reason}
        if self._described == (config.params, tags):
            return
        params = [mlflow.Param(key, value) for key, value in config.params.items()]
        for chunk in chunks(params, MAX_PARAMS_PER_CALL):
            self._try("parameters", lambda chunk=chunk: self._log(params=chunk))
        entries = [mlflow.RunTag(key, value) for key, value in tags.items()]
        for chunk in chunks(entries, MAX_PARAMS_PER_CALL):
            self._try("tags", lambda chunk=chunk: self._log(tags=chunk))
        self._described = (config.params, tags)

    def _try(self, what: str, work: Any) -> None:
        """A call that may be repeated; a refusal is reported."""
        try:
            translated(work)
            self.num_sent += 1
        except RefusedError as error:
            self.check_not_deleted()
            self.report(f"{what} of {self.run.folder}", str(error))

    def _log(self, **entries: Any) -> None:
        self.client.log_batch(self.run_id, **entries)

    def _set_state(self, state: str, status: Status | None) -> None:
        if state == self._state:
            return
        if state == "RUNNING" or status is None:
            self._try("state", lambda: self.client.update_run(self.run_id, status=state))
        else:
            self._try(
                "state", lambda: self.client.set_terminated(self.run_id, state, status.since_ms)
            )
        self._state = state

    @property
    def is_settled(self) -> bool:
        """Whether a trial is over and all its rows are sent."""
        return self.parent is not None and self._settled is not None

    def check_not_deleted(self) -> None:
        """Find out why MLflow refuses an entry: the entry's own fault, or the run is gone.

        Raises:
            DeletedError: the run was deleted, or its experiment.
            UnreachableError: MLflow does not answer.
        """
        if not translated(lambda: self._is_known(self.run_id)):
            raise DeletedError(
                f"run {self.run_id} was deleted there, or its experiment; bring it back with "
                f"`mlflow runs restore` or `mlflow experiments restore`"
            )

    def answers(self) -> bool:
        """Whether MLflow answers about this run now."""
        try:
            return self._is_known(self.run_id)
        except Exception:
            return False


def noted_run(folder: str) -> str:
    """The MLflow run that a run folder was mirrored to last; empty where there is none."""
    place = storage.join(folder, MLFLOW)
    if not storage.exists(place):
        return ""
    try:
        return str(storage.read_json(place).get("run_id", ""))
    except (ValueError, AttributeError):
        return ""
