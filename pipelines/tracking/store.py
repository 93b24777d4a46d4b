"""What takes a spool's records into an MLflow store: each (metric, step) once, however often sent.

The first value of a (metric, step) stays: what a resumed run logs again is left out. After a
restart or a failed call the store is asked which steps it has.
"""

import json
import logging
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlparse

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the courier does the waiting
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import InvalidUrlException, MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES
from PIL import Image
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from pipelines.tracking.courier import AwayError, RefusedError
from pipelines.tracking.registry import register_model
from pipelines.tracking.spool import Record, Spool
from sddusr import storage

T = TypeVar("T")

MAX_PARAMS_PER_CALL = 100
MAX_METRICS_PER_CALL = 1000
PREVIEW_PX = 256
"""Side of the small copy that MLflow's page shows of a picture first."""

__all__ = ["MlflowClient", "Run", "Store", "UnusableError", "database_path", "experiment_of"]

KEY_TAG = "sddusr.key"
"""Finds the run again where the answer to its creation was lost."""

REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")
"""MLflow's codes for a record that no waiting makes right."""

MAX_TRIES = 20
"""Of a record on which a store that answers breaks each time; then the others get their turn."""

UNUSABLE = (*REFUSALS, "PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")
"""And for a store or a user that somebody must put right before a run is worth starting."""

WRONG_URI = (InvalidUrlException, ImportError, SQLAlchemyError)

QUIET = {
    "mlflow": logging.CRITICAL,  # the courier tells what fails
    "urllib3.connectionpool": logging.ERROR,
    "alembic": logging.WARNING,
}

_SHOWN = re.compile(r"images/(.+)\+step\+(\d+)\+timestamp\+.*\+compressed\.webp")


class UnusableError(AwayError):
    """The store answers that it cannot be used like this."""


class Store:
    """Matches `courier.Receiver`.

    Args:
        remembered: what `state` gave before, in this process or an earlier one.
    """

    def __init__(self, uri: str, spool: Spool, remembered: Mapping[str, Any]) -> None:
        self.uri, self.spool = uri, spool
        self.run_id: str = remembered.get("run_id", "")
        self._key: str = remembered.get("key", "")
        self._owned: bool = remembered.get("owned", False)
        self._once: bool = remembered.get("once", False)
        self._num_tries = 0
        self._is_new = False
        self._steps: dict[str, set[int]] = {}
        self._pictures: set[tuple[str, int]] | None = None
        self._opened: MlflowClient | None = None
        self._takers: dict[str, Callable[[Record], None]] = {
            "open": self._open,
            "params": self._params,
            "picture": self._picture,
            "artifact": self._artifact,
            "tags": self._tags,
            "model": self._model,
            "end": self._end,
        }

    def state(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "key": self._key,
            "owned": self._owned,
            "once": self._once,
        }

    def take(self, records: Sequence[Record]) -> int:
        rows = list(takewhile(lambda record: record["kind"] == "metrics", records))
        try:
            num = self._try(rows or records[:1])
        except RefusedError:
            if len(rows) < 2:
                raise
            return self._try(rows[:1])  # so that only the guilty one is refused
        self._num_tries = 0
        return num

    def _try(self, records: Sequence[Record]) -> int:
        kind = records[0]["kind"]
        if kind != "open" and not self.run_id:
            raise AwayError("its run is not created yet")
        try:
            if kind == "metrics":
                return self._metrics(records)
            self._takers[kind](records[0])
        except Exception as error:
            self._is_new = False  # what was sent may have arrived: ask
            self._steps, self._pictures = {}, None
            if kind != "open" and self._breaks_always(error):
                raise RefusedError(f"{MAX_TRIES} times: {error}") from error
            raise _as_ours(error, is_opening=kind == "open") from error
        return 1

    def _breaks_always(self, error: Exception) -> bool:
        """Whether it is the record that breaks a store which is there otherwise."""
        if getattr(error, "error_code", "") != "INTERNAL_ERROR":
            return False
        self._num_tries += 1
        try:
            return self._num_tries >= MAX_TRIES and self._is_known(self.run_id)
        except MlflowException:
            return False

    @property
    def _client(self) -> MlflowClient:
        if self._opened is None:
            for name, level in QUIET.items():
                logging.getLogger(name).setLevel(level)
            self._opened = MlflowClient(self.uri)
        return self._opened

    def _open(self, record: Record) -> None:
        """Go on with the run, or find or create it. Who does not create follows the run's note."""
        create, is_same = record["create"], record["key"] in ("", self._key)
        known = [self.run_id if is_same else "", record["run_id"], _noted_run(record["note"])]
        run_id = next(
            (one for one in known[0 if create else 2 :] if one and self._is_known(one)), ""
        )
        self._is_new = False
        owned = record["owned"]
        if not run_id:
            if create is None:
                raise AwayError("its run is not created yet")
            run_id, owned = self._find_or_create(record["key"], create), True
        if run_id != self.run_id:
            self._steps, self._pictures = {}, None
        self.run_id, self._once = run_id, record["once"]
        self._key = record["key"] or self._key
        self._owned = owned or (is_same and self._owned)
        if record["owned"]:
            self._client.update_run(run_id, status="RUNNING")
        if record["note"] and record["create"] is not None:
            told = {"tracking_uri": self.uri, "run_id": run_id, "key": record["key"]}
            storage.write_atomic(record["note"], json.dumps(told, indent=1).encode())

    def _is_known(self, run_id: str) -> bool:
        try:
            return self._client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _find_or_create(self, key: str, create: Record) -> str:
        experiment_id = self._experiment_id(create["experiment"])
        found = self._client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{key}'")
        if found:
            return found[0].info.run_id
        run = self._client.create_run(
            experiment_id,
            start_time=create["time_ms"],
            run_name=create["name"],
            tags={**create["tags"], KEY_TAG: key},
        )
        self._is_new = True
        return run.info.run_id

    def _experiment_id(self, name: str) -> str:
        """The experiment's id; with SQLite its pictures and files lie beside the database."""
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        location = None
        if self.uri.startswith("sqlite:"):
            location = (database_path(self.uri).parent / "mlartifacts" / name).absolute().as_uri()
        return self._client.create_experiment(name, artifact_location=location)

    def _metrics(self, rows: Sequence[Record]) -> int:
        """The first rows, as many as one call takes; how many."""
        metrics: list[Metric] = []
        seen: set[tuple[str, int]] = set()
        num = 0
        for row in rows:
            step = row["step"]
            new = {
                key: value
                for key, value in row["metrics"].items()
                if self._is_new_to_run(key, step)
            }
            if num and len(metrics) + len(new) > MAX_METRICS_PER_CALL:
                break
            metrics += [
                Metric(key, value, row["time_ms"], step)
                for key, value in new.items()
                if not self._once or (key, step) not in seen
            ]
            seen |= {(key, step) for key in new}
            num += 1
        for chunk in _chunks(metrics, MAX_METRICS_PER_CALL):
            self._client.log_batch(self.run_id, metrics=chunk)
        for key, step in seen:
            self._steps.setdefault(key, set()).add(step)
        return num

    def _is_new_to_run(self, key: str, step: int) -> bool:
        if not self._once:
            return True
        if key not in self._steps:
            history = [] if self._is_new else self._client.get_metric_history(self.run_id, key)
            self._steps[key] = {point.step for point in history}
        return step not in self._steps[key]

    def _params(self, record: Record) -> None:
        entries = [Param(key, value) for key, value in record["params"].items()]
        for chunk in _chunks(entries, MAX_PARAMS_PER_CALL):
            self._client.log_batch(self.run_id, params=chunk)

    def _tags(self, record: Record) -> None:
        entries = [RunTag(key, value) for key, value in record["tags"].items()]
        for chunk in _chunks(entries, MAX_PARAMS_PER_CALL):
            self._client.log_batch(self.run_id, tags=chunk)

    def _picture(self, record: Record) -> None:
        """As `MlflowClient.log_image` names its files, but the same names every time."""
        key, step = record["key"], record["step"]
        shown = (key.replace("/", "~"), step)
        if self._pictures is None:
            self._pictures = set() if self._is_new else self._shown()
        if shown in self._pictures:
            return
        stamp = f"{key} {step} {record['time_ms']}"
        name = f"{shown[0]}+step+{step}+timestamp+{record['time_ms']}+"
        name += str(uuid.uuid5(uuid.NAMESPACE_OID, stamp))
        with tempfile.TemporaryDirectory() as folder, _opened(self._kept(record)) as picture:
            whole, small = Path(folder, f"{name}.png"), Path(folder, f"{name}+compressed.webp")
            picture.save(whole)
            picture.thumbnail((PREVIEW_PX, PREVIEW_PX))
            picture.save(small)
            for path in (whole, small):  # in this order: the small one says that both are there
                self._client.log_artifact(self.run_id, str(path), "images")
        self._client.set_tag(self.run_id, MLFLOW_LOGGED_IMAGES, True)
        self._pictures.add(shown)

    def _shown(self) -> set[tuple[str, int]]:
        paths = [item.path for item in self._client.list_artifacts(self.run_id, "images")]
        return {(found[1], int(found[2])) for path in paths if (found := _SHOWN.fullmatch(path))}

    def _artifact(self, record: Record) -> None:
        folder = record["folder"]
        path = self._kept(record) if "file" in record else Path(record["path"])
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), folder)
        else:
            self._client.log_artifact(self.run_id, str(path), folder)

    def _model(self, record: Record) -> None:
        register_model(self._client, self.run_id, record)

    def _end(self, record: Record) -> None:
        if self._owned:
            self._client.set_terminated(self.run_id, record["status"], record["time_ms"])

    def _kept(self, record: Record) -> Path:
        return self.spool.kept(record["file"])


def database_path(uri: str) -> Path:
    """The file of an SQLite URI."""
    return Path(unquote(urlparse(uri).path)[1:])


def experiment_of(uri: str, run_id: str) -> str:
    """The id of a run's experiment; empty where the store does not answer or know the run."""
    try:
        return MlflowClient(uri).get_run(run_id).info.experiment_id
    except (MlflowException, *WRONG_URI):
        return ""


def _opened(place: Path) -> Image.Image:
    """A kept picture; one that a power cut tore is refused, waiting would hold up all behind it."""
    try:
        with Image.open(place) as picture:
            return picture.copy()
    except (OSError, SyntaxError) as error:
        raise RefusedError(f"{place} cannot be read: {error}") from error


def _noted_run(note: str) -> str:
    """The run that a run's folder names."""
    return storage.read_json(note).get("run_id", "") if note and storage.exists(note) else ""


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _as_ours(error: Exception, is_opening: bool) -> Exception:
    """Whether to wait, to go on without this record, or, for a run's opening, to give up."""
    code = error.error_code if isinstance(error, MlflowException) else ""
    if isinstance(error, AwayError | RefusedError):
        return error
    if isinstance(error, OperationalError):
        return AwayError(str(error))
    if is_opening:
        unusable = code in UNUSABLE or isinstance(error, WRONG_URI)
        return (UnusableError if unusable else AwayError)(str(error))
    is_of_store = isinstance(error, MlflowException | OSError | SQLAlchemyError)
    if code in REFUSALS or isinstance(error, FileNotFoundError) or not is_of_store:
        return RefusedError(str(error) or repr(error))  # a fault of the record, or of ours
    return AwayError(str(error) or repr(error))
