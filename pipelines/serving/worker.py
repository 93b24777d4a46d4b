"""Makes one uploaded pair after the other, each within a time limit that really ends the work."""

import asyncio
import json
import logging
import math
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines.serving.messages import (
    GRACE_S,
    MEDIA_TYPES,
    Answer,
    PairRequest,
    Refusal,
    time_is_over,
)
from pipelines.serving.scratch import Scratch
from pipelines.serving.uploads import without_dashes
from sddusr.imaging.images import Picture, TooLargeError, write_picture
from sddusr.inference.process_memory import NotEnoughMemoryError
from sddusr.photos.jobs import Job, Settings
from sddusr.photos.options import UpscaleOptions
from sddusr.photos.upscaler import Made, Upscaler
from sddusr.secrets import mask

PREVIEW_QUALITY = 85

log = logging.getLogger(__name__)


class StoppedError(Exception):
    """The work was cancelled."""


class Worker:
    """Holds the weights.

    Args:
        options: as of the command `sddusr upscale`.
        settings: made from `options`.
        shown_checkpoint: how records name the network, instead of its place.
        timeout_s: what a picture may take.
        abort: ends this process, where work does not stop.
    """

    def __init__(
        self,
        options: UpscaleOptions,
        settings: Settings,
        shown_checkpoint: str,
        timeout_s: float,
        abort: Callable[[], None] = lambda: os._exit(1),
    ) -> None:
        self.options, self.settings, self.shown_checkpoint = options, settings, shown_checkpoint
        self.timeout_s, self.abort = timeout_s, abort
        self.upscaler = Upscaler(settings)
        self.scratch = Scratch()
        self._thread = ThreadPoolExecutor(1, "upscaling")

    async def make(self, request: PairRequest) -> Answer | Refusal:
        """The result, or why there is none; when this returns, the work has ended."""
        stop = threading.Event()
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._make, request, stop)
        try:
            await asyncio.wait({work}, timeout=self.timeout_s)
        except asyncio.CancelledError:
            await asyncio.shield(self._end(work, stop))
            raise
        if work.done():
            return work.result()
        await asyncio.shield(self._end(work, stop))
        return time_is_over(self.timeout_s)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        self.scratch.close()

    async def _end(self, work: asyncio.Future[Answer | Refusal], stop: threading.Event) -> None:
        """Have the work stopped, by its process's end if need be."""
        stop.set()
        await asyncio.wait({work}, timeout=GRACE_S)
        if not work.done():
            log.warning("work still runs %g s after it was cancelled; ending its process", GRACE_S)
            self.scratch.close()
            self.abort()

    def _make(self, request: PairRequest, stop: threading.Event) -> Answer | Refusal:
        with tempfile.TemporaryDirectory(dir=self.scratch.folder) as folder:
            try:
                return self._run(request, Path(folder), stop)
            except StoppedError:
                return time_is_over(self.timeout_s)
            except TooLargeError as error:
                reason = str(error).replace(f"{folder}/", "").partition("; ")[0]
                return Refusal(status=413, message=f"{reason}; send a smaller image")
            except NotEnoughMemoryError as error:
                log.warning("%s", error)
                return Refusal(
                    status=413,
                    message="the images need more memory than this server gives a picture "
                    "(--memory); send smaller ones",
                )
            except ValueError as error:
                reason = without_dashes(str(error).replace(f"{folder}/", ""))
                return Refusal(status=422, message=reason)
            except OSError as error:
                log.exception("a picture could not be made")
                reason = error.strerror or type(error).__name__
                return Refusal(
                    status=503, message=f"the server's disk failed ({reason}); try again later"
                )
            except Exception as error:
                log.exception("a picture could not be made")
                kind = type(error).__name__
                return Refusal(
                    status=500, message=f"the server failed ({kind}); its log has the reason"
                )

    def _run(self, request: PairRequest, folder: Path, stop: threading.Event) -> Answer:
        def report(_phase: str, _share: float) -> None:
            if stop.is_set():
                raise StoppedError

        for name, content in (("wide", request.wide), ("tele", request.tele)):
            (folder / name).write_bytes(content)
        out = folder / f"result.{request.format}"
        options = replace(self.options, **request.changes)
        settings = replace(
            self.settings,
            trust=0.0 if options.without_ref else options.trust,
            quality=options.quality,
            strip_metadata=options.strip_metadata,
        )
        wide, tele = str(folder / "wide"), str(folder / "tele")
        job = Job("upload", wide, tele, str(out), options.placement())
        made = Upscaler(settings, self.upscaler.engine).run(job, report)
        return Answer(
            image=out.read_bytes(),
            media_type=MEDIA_TYPES[request.format],
            record=self._record(made.record, request),
            trust=_trust_png(made),
            preview=_preview(made.wide, folder) if request.preview else None,
        )

    def _record(self, record: dict[str, Any], request: PairRequest) -> dict[str, Any]:
        """The record with the client's names for files, and none of this machine's places."""
        named = record | {
            "wide": record["wide"] | {"place": request.wide_name},
            "tele": record["tele"] | {"place": request.tele_name},
            "checkpoint": self.shown_checkpoint,
        }
        return _finite(json.loads(mask(json.dumps(named))))


def _finite(value: Any) -> Any:
    """The same with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _trust_png(made: Made) -> bytes | None:
    trust = made.upscaled.trust
    if trust is None:
        return None
    done, png = cv2.imencode(".png", (trust.clip(0, 1) * 255).round().astype(np.uint8))
    if not done:
        raise ValueError(f"a trust map of {trust.shape} cannot be written as PNG")
    return png.tobytes()


def _preview(wide: Picture, folder: Path) -> bytes:
    """The wide image as a JPEG, in its own colours."""
    pixels = wide.pixels
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    place = folder / "preview.jpg"
    write_picture(str(place), pixels, metadata=wide.metadata, quality=PREVIEW_QUALITY)
    return place.read_bytes()
