"""One run folder's images, artifacts and model in MLflow; metrics never wait for them."""

import hashlib
import re
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES
from PIL import Image
from pyarrow import fs

from pipelines.tracking.client import (
    BusyError,
    RefusedError,
    UnreachableError,
    make_client,
    translated,
)
from pipelines.tracking.mirror import Mirror
from pipelines.tracking.registry import register_model
from sddusr import storage
from sddusr.runs.checked_json import DamagedError
from sddusr.runs.run_folder import ARTIFACTS, CONFIG, IMAGES, LINKS, MODEL, Version

MAX_TRIES = 20
"""Of a file that fails while MLflow answers other calls; then it is left out and reported."""

MAX_REFUSALS = 3
"""Of a file that MLflow refuses outright."""

PREVIEW_PX = 256
"""Side of the small copy that MLflow's page shows of an image first."""

_SHOWN = re.compile(r"images/(.+)\+step\+(\d+)\+timestamp\+.*\+compressed\.webp")


class FileMirror:
    """Uploads the files that a run folder holds and its MLflow run does not.

    Works beside the `Mirror` of the same run, in another thread, once that one has found the run.
    """

    def __init__(self, mirror: Mirror) -> None:
        self.mirror, self.run = mirror, mirror.run
        self._client: Any = None
        self._shown: set[tuple[str, int]] | None = None
        self._is_tagged = False
        self._done: dict[str, Version | None] = {}
        self._failures: dict[str, int] = {}
        self._uploaded: dict[str, str] | None = None
        self._settled_model: tuple[Version | None] | None = None

    def sync(self) -> None:
        """Upload what is missing.

        Raises:
            UnreachableError: MLflow does not answer, or a file is to be tried again.
        """
        if not self.mirror.run_id:
            if self.run.version(CONFIG) is None or self.mirror.problems:
                return
            raise BusyError("its MLflow run is not created yet")
        is_settled, model = self.mirror.is_settled, (self.run.version(MODEL),)
        if is_settled and self._settled_model == model:
            return
        is_tried_again = False
        try:
            for name, version, upload in self._pending():
                is_tried_again |= not self._upload(name, version, upload)
        finally:
            self._note()
        if is_tried_again:
            raise BusyError("some files are tried again")
        self._settled_model = model if is_settled else None

    def _pending(self) -> list[tuple[str, Version | None, Callable[[], None]]]:
        """Name, version and upload of each file that is new or changed since it was uploaded."""
        run, found = self.run, []
        for name, version in run.files(IMAGES).items():
            found.append((name, version, lambda n=name, v=version: self._upload_image(n, v)))
        for name, version in run.files(ARTIFACTS).items():
            place = run.place(ARTIFACTS, name)
            found.append((name, version, lambda n=name, p=place: self._upload_artifact(n, p)))
        if run.version(LINKS):
            found += self._pending_links()
        if version := run.version(MODEL):
            found.append((MODEL, version, self._register))
        return [each for each in found if self._done.get(each[0], False) != each[1]]

    def _pending_links(self) -> list[tuple[str, Version | None, Callable[[], None]]]:
        try:
            links = self.run.links()
        except DamagedError as error:
            self.mirror.report(error.place, str(error))
            return []
        found = []
        for name, linked in links.items():
            for below, place in _files(linked).items():
                full = f"{name}/{below}" if below else name
                info = storage.info(place)
                version = Version(info.size or 0, info.mtime_ns or 0)
                upload = lambda n=full, p=place: self._upload_artifact(n, p)  # noqa: E731
                found.append((full, version, upload))
        return found

    def _upload(self, name: str, version: Version | None, upload: Callable[[], None]) -> bool:
        """Try one file; False where it is to be tried again.

        Raises:
            UnreachableError: MLflow does not answer at all, or the run was deleted there.
        """
        try:
            translated(upload)
        except BusyError:  # not yet, which is no failure
            return False
        except (RefusedError, UnreachableError) as error:
            if isinstance(error, UnreachableError) and not self.mirror.answers():
                raise
            if isinstance(error, RefusedError):
                self.mirror.check_not_deleted()
            self._failures[name] = self._failures.get(name, 0) + 1
            most = MAX_REFUSALS if isinstance(error, RefusedError) else MAX_TRIES
            if self._failures[name] < most:
                return False
            self.mirror.report(f"{name} of {self.run.folder}", f"not uploaded: {error}")
        else:
            self.mirror.num_sent += 1
        self._done[name] = version
        return True

    # --- one file ----------------------------------------------------------------------------

    @property
    def client(self) -> Any:
        if self._client is None:
            self._client = make_client(self.mirror.uri)
        return self._client

    def _upload_image(self, name: str, version: Version) -> None:
        """As `MlflowClient.log_image` names its files, but with the same names every time."""
        folder, _, key = name.removesuffix(".png").partition("/")
        step, run_id = int(folder), self.mirror.run_id
        if self._shown is None:
            paths = [item.path for item in self.client.list_artifacts(run_id, "images")]
            matches = [match for path in paths if (match := _SHOWN.fullmatch(path))]
            self._shown = {(match[1], int(match[2])) for match in matches}
        if not self._is_tagged:
            self.client.set_tag(run_id, MLFLOW_LOGGED_IMAGES, True)
            self._is_tagged = True
        if (key, step) in self._shown:
            return
        time_ms = version.time_ns // 10**6
        full = f"{key}+step+{step}+timestamp+{time_ms}+"
        full += str(uuid.uuid5(uuid.NAMESPACE_OID, f"{key} {step} {time_ms}"))
        with tempfile.TemporaryDirectory() as scratch:
            whole, small = Path(scratch, f"{full}.png"), Path(scratch, f"{full}+compressed.webp")
            whole.write_bytes(storage.read_bytes(self.run.place(IMAGES, name)))
            _write_preview(whole, small)
            for path in (whole, small):  # in this order: the small one says that both are there
                self.client.log_artifact(run_id, str(path), "images")
        self._shown.add((key, step))

    def _upload_artifact(self, name: str, place: str) -> None:
        content = storage.read_bytes(place)
        digest = hashlib.sha256(content).hexdigest()
        if self._known().get(name) == digest:
            return
        folder, _, base = name.rpartition("/")
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, base)
            path.write_bytes(content)
            self.client.log_artifact(self.mirror.run_id, str(path), folder or None)
        self._known()[name] = digest

    def _register(self) -> None:
        model = self.run.model()
        if model is not None:
            is_reported = self.mirror.problems.__contains__
            register_model(self.client, self.mirror.run_id, self.run, model, is_reported)

    def _known(self) -> dict[str, str]:
        """Name -> SHA-256 of the artifacts that this MLflow run was sent."""
        if self._uploaded is None:
            noted = self.mirror.noted()
            is_same = noted.get("run_id") == self.mirror.run_id
            self._uploaded = dict(noted.get("artifacts", {})) if is_same else {}
        return self._uploaded

    def _note(self) -> None:
        """Remember what was uploaded, for the next process."""
        if self._uploaded:
            noted = self.mirror.noted()
            if noted and noted.get("artifacts") != self._uploaded:
                self.mirror.note(noted | {"artifacts": dict(self._uploaded)})


def _write_preview(whole: Path, small: Path) -> None:
    try:
        with Image.open(whole) as image:
            image.thumbnail((PREVIEW_PX, PREVIEW_PX))
            image.save(small)
    except (OSError, SyntaxError, ValueError) as error:
        raise RefusedError(f"it cannot be read: {error}") from error


def _files(place: str) -> dict[str, str]:
    """Path below a place -> file, for all files of a folder; a file itself has the empty path."""
    system, path = storage.resolve(place)
    if system.get_file_info(path).type != fs.FileType.Directory:
        return {"": place}
    found = system.get_file_info(fs.FileSelector(path, recursive=True))
    names = [item.path.removeprefix(path).lstrip("/") for item in found if item.is_file]
    return {name: storage.join(place, name) for name in sorted(names)}
