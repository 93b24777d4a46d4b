"""Where pictures are made: in this process, with a bar, or one after the other in Ray actors."""

import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

from tqdm import tqdm

from pipelines.ray_runtime import cluster
from sddusr.checkpoint import load_model
from sddusr.cli import command_line
from sddusr.cli.progress_bar import ProgressBar
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
                record = self.upscaler.make(job, ProgressBar(job.name, is_one_of_many=True).tell)
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
        return Upscaler(settings).make(job, progress.tell)
    finally:
        progress.close()


def make_all(jobs: Sequence[Job], settings: Settings, num_actors: int) -> Iterator[Outcome]:
    """Make many pictures in Ray actors, in any order; the memory limit is shared out.

    Raises:
        ValueError: there are not that many cores, no GPU for `cuda`, or a damaged checkpoint.
    """
    import ray.data

    load_model(settings.checkpoint)  # if it is damaged, one line says so; an actor's would be many
    cluster.init_ray()
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its lines would bury ours
    num_actors = min(num_actors, len(jobs))
    limit = settings.memory_bytes and settings.memory_bytes // num_actors
    settings = replace(settings, memory_bytes=limit, memory_share=1 / num_actors)
    items = [{"index": index} for index in range(len(jobs))]
    made = ray.data.from_items(items, override_num_blocks=len(items)).map(
        cast(Any, UpscalerActor),
        fn_constructor_args=(jobs, settings, ray.remote(num_cpus=0)(Attempts).remote()),
        compute=ray.data.ActorPoolStrategy(size=num_actors),
        num_cpus=cluster.cores_for_each(num_actors, "--num-actors"),
        num_gpus=min(1.0, _num_gpus(settings.device, ray.cluster_resources()) / num_actors),
    )
    with tqdm(total=len(jobs), unit="picture", disable=not sys.stderr.isatty()) as bar:
        # Without prefetching, which would hold each picture back until the next one is made.
        for batch in made.iter_batches(batch_size=None, prefetch_batches=0):
            for index, record, error in zip(*(batch[name] for name in COLUMNS), strict=True):
                bar.update()
                yield Outcome(jobs[index], json.loads(record), str(error))


def _num_gpus(device: Device, resources: Mapping[str, float]) -> float:
    """GPUs of the cluster that may be used."""
    num_gpus = 0 if device == "cpu" else resources.get("GPU", 0)
    if device == "cuda" and not num_gpus:
        raise ValueError("--device is cuda, but the cluster has no GPU; pass --device cpu")
    return num_gpus
