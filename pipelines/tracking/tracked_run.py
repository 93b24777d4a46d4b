"""One MLflow run, written to through a spool."""

import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipelines.tracking.courier import Courier
from pipelines.tracking.spool import Spool
from pipelines.tracking.spool_backup import Backup, restore
from pipelines.tracking.store import Store, UnusableError
from sddusr import storage

START_WAIT_S = 20.0
"""How long a start waits for the store's first answer; creating a database takes 2 to 7 s."""

END_WAIT_S = 60.0

log = logging.getLogger(__name__)


def spool_home() -> Path:
    """Where spools lie that no run's local folder can hold: SDDUSR_SPOOL, the user's cache, or
    where that cannot be written, the folder of temporary files."""
    cache_folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = Path(os.environ.get("SDDUSR_SPOOL") or Path(cache_folder, "sddusr", "spool"))
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir(), f"sddusr-{os.getuid()}")
    return home


def spool_of(folder: str, uri: str) -> Spool:
    """The spool of the run in `folder` for one store: in the folder itself where that is local."""
    if storage.is_local(folder):
        return Spool(Path(folder, "tracking", _digest(uri)))
    return Spool(spool_home() / _digest(f"{folder} {uri}"))


class TrackedRun:
    """One MLflow run. What is logged is on disk when a call returns; a thread delivers it, this
    process's or that of another one that writes to the same spool.

    Args:
        folder: the training run's; empty where there is none.
        opening: what the store needs to find or create the run.
    """

    def __init__(self, uri: str, folder: str, opening: Mapping[str, Any]) -> None:
        self.uri, self.folder = uri, folder
        self.spool = spool = (
            spool_of(folder, uri) if folder else Spool(spool_home() / opening["key"])
        )
        self._warned = False
        self._end, self._run_id = 0, ""
        self._add("open", **opening, uri=uri)
        self._opened = self._end
        backup = None if not folder or storage.is_local(folder) else Backup(spool, folder)
        self._courier = Courier(spool, f"MLflow at {uri}", partial(Store, uri, spool), backup)

    @property
    def run_id(self) -> str:
        """MLflow's; empty until the store was there to create the run."""
        self._run_id = self.spool.mark().state.get("run_id", "") or self._run_id
        return self._run_id

    def check(self) -> None:
        """Wait for the store's first answer, or find out that it is away.

        Raises:
            ValueError: it answers that it cannot be used.
        """
        self._courier.wait_until(self._opened, START_WAIT_S, through_trouble=False)
        if isinstance(self._courier.trouble, UnusableError):
            self._courier.stop()
            raise ValueError(
                f"MLflow at {self.uri} cannot be used ({self._courier.trouble!s:.200}); give "
                f"another --tracking-uri, such as sqlite:///mlflow.db"
            )

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters, flat; logging the same ones again changes nothing."""
        self._add("params", params={key: str(value) for key, value in params.items()})

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Numbers of one step."""
        allowed = {_allowed(key): float(value) for key, value in metrics.items()}
        self._add("metrics", metrics=allowed, step=step)

    def log_picture(self, key: str, picture: np.ndarray, step: int = 0) -> None:
        """An RGB picture that a slider over steps can show."""
        save = partial(Image.fromarray(picture).save, compress_level=1)
        self._add_file("picture", "picture.png", save, key=_allowed(key), step=step)

    def log_artifact(
        self, path: str | Path, folder: str | None = None, *, copy: bool = False
    ) -> None:
        """A file, or a folder with all that is in it.

        Args:
            copy: keep a copy of the file until it is delivered; without, it must stay where it is.
        """
        path = Path(path).absolute()
        if copy:
            self._add_file("artifact", path.name, partial(shutil.copyfile, path), folder=folder)
        else:
            self._add("artifact", path=str(path), folder=folder)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._add("tags", tags=dict(tags))

    def register_model(self, name: str, checkpoint: str, tags: Mapping[str, str]) -> None:
        """A checkpoint's network as a version of a registered model; once for the same tags."""
        self._add("model", name=name, checkpoint=checkpoint, tags=dict(tags))

    def leave(self, wait_s: float = END_WAIT_S) -> None:
        """Stop writing to a run that goes on elsewhere. What is left there, the run's own process
        delivers, which reads the spool or its backup."""
        if self._courier.is_at_work:
            self.spool.sync()
            delivered = self._courier.wait_until(self._end, wait_s)
            if not delivered and self._courier.backup is not None:
                self._courier.backup.save()
        else:
            self.spool.sync()
        self._courier.stop()

    def finish(self, status: str = "FINISHED", wait_s: float = END_WAIT_S) -> None:
        """End a run of our own as FINISHED, FAILED or KILLED. What cannot be delivered within
        `wait_s` stays in the spool, and the log says how to deliver it."""
        if self.folder:
            self.take_over()
        self._add("end", status=status)
        delivered = self._deliver_rest(wait_s)
        self._courier.stop()
        if delivered and self.run_id and self.spool.folder.parent == spool_home():
            shutil.rmtree(self.spool.folder, ignore_errors=True)

    def take_over(self) -> None:
        """Deliver what other machines of this run could not."""
        try:
            restore(self.spool, self.folder, self._courier.backup)
        except (OSError, ValueError) as error:
            log.warning("MLflow may miss rows; not readable: %.300s", error)

    def _deliver_rest(self, wait_s: float) -> bool:
        self.spool.sync()
        delivered = self._courier.wait_until(self._end, wait_s)
        if not delivered:
            log.warning(
                "MLflow at %s does not answer: %d records wait in %s; deliver them with: "
                "python -m pipelines.tracking %s",
                self.uri,
                self.spool.num_waiting(),
                self.spool.folder,
                self.spool.folder,
            )
        return delivered

    def _add_file(
        self, kind: str, name: str, write: Callable[[Path], object], **record: Any
    ) -> None:
        try:
            record["file"] = self.spool.keep(name, write)
        except OSError as error:
            self._warn(error)
        else:
            self._add(kind, **record)

    def _add(self, kind: str, **record: Any) -> None:
        try:
            record |= {"kind": kind, "time_ms": int(time.time() * 1000)}
            self._end = self.spool.append(record)
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            log.warning("MLflow misses rows, %s cannot be written: %s", self.spool.folder, error)
        self._warned = True


def _allowed(key: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w\-./ ]", "-", key)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
