"""Where pictures are made: in this process, with a bar, or one after the other in Ray actors."""

import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

from tqdm import tqdm

from pipelines.ray_runtime import cluster
from pipelines.ray_runtime.persistent_paths import check_seen_by_all
from pipelines.ray_runtime.tasks import map_actors
from sddusr import storage
from sddusr.cli import command_line
from sddusr.cli.progress_bar import ProgressBar
from sddusr.photos.engines import check_weights
from sddusr.photos.jobs import Device, Job, Settings
from sddusr.photos.upscaler import Upscaler

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 2
"""Of a picture whose process died."""

COLUMNS = ("index", "record", "error")


class Outcome(NamedTuple):
    """A picture that was made, or why it was not."""

    job: Job
    record: dict[str, Any]
    error: str


class Attempts:
    """Counts how often each picture was begun: Ray would repeat what kills its process for ever."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def begin(self, index: int) -> int:
        self.counts[index] += 1
        return self.counts[index]


class UpscalerActor:
    """Ray Data's actor around an `Upscaler`.

    It returns what is wrong with the input: Ray Data would turn an exception into one of its own.
    """

    def __init__(self, jobs: Sequence[Job], settings: Settings, attempts: Any) -> None:
        command_line.mask_streams()
        command_line.log_lines()
        self.jobs, self.attempts, self.upscaler = jobs, attempts, Upscaler(settings)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        import ray

        index, record, error = item["index"], {}, ""
        job = self.jobs[index]
        num_attempts = cast(int, ray.get(self.attempts.begin.remote(index)))
        if num_attempts > MAX_ATTEMPTS:
            error = f"its process died {MAX_ATTEMPTS} times, for lack of memory most likely"
        else:
            try:
                record = self.upscaler.make(job, ProgressBar(job.name, is_one_of_many=True).report)
            except command_line.USER_ERRORS as problem:
                error = str(problem)
        return dict(zip(COLUMNS, (index, json.dumps(record), error), strict=True))


def make_here(job: Job, settings: Settings) -> dict[str, Any]:
    """Make one picture in this process and return its record.

    Raises:
        ValueError, OSError: as `Upscaler.make`.
    """
    progress = ProgressBar(job.name)
    try:
        return Upscaler(settings).make(job, progress.report)
    finally:
        progress.close()


def make_all(jobs: Sequence[Job], settings: Settings, num_actors: int) -> Iterator[Outcome]:
    """Make many images in Ray actors; the memory limit is shared out.

    Raises:
        ValueError: there are not that many cores, no GPU for `cuda`, or a damaged checkpoint.
    """
    import ray

    check_weights(settings)  # if it is damaged, one line says so; an actor's would be many
    cluster.init_ray()
    check_seen_by_all(
        files={"--checkpoint": settings.checkpoint, "the wide image": jobs[0].wide},
        folders={"--out": storage.parent(jobs[0].out)},
    )
    num_actors = min(num_actors, len(jobs))
    num_gpus = _num_gpus(settings.device, num_actors)
    limit = settings.memory_bytes and settings.memory_bytes // num_actors
    # Those on one card share its memory, those on processors the machine's.
    settings = replace(settings, memory_bytes=limit, memory_share=num_gpus or 1 / num_actors)
    attempts = ray.remote(num_cpus=0)(Attempts).remote()
    made = map_actors(
        UpscalerActor,
        (jobs, settings, attempts),
        num_items=len(jobs),
        num_actors=num_actors,
        num_gpus=num_gpus,
        in_order=False,
    )
    with tqdm(total=len(jobs), unit="image", disable=not sys.stderr.isatty()) as bar:
        for row in made:
            bar.update()
            yield Outcome(jobs[row["index"]], json.loads(row["record"]), str(row["error"]))


def _num_gpus(device: Device, num_actors: int) -> float:
    """GPUs of each actor."""
    num_gpus = 0.0 if device == "cpu" else cluster.gpus_for_each(num_actors)
    if device == "cuda" and not num_gpus:
        raise ValueError("--device is cuda, but the cluster has no GPU; pass --device cpu")
    return num_gpus
