"""A rank of a training run: what happens inside a worker of Ray Train."""

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import ray
import ray.train
import torch
from ray.train import CheckpointUploadMode
from ray.train.torch import get_device

from pipelines.ray_runtime.final_error import final_error, set_final_error
from pipelines.ray_runtime.gauges import RunGauges, run_name
from pipelines.ray_runtime.run_clock import RunClock
from pipelines.ray_runtime.stop_request import is_stop_requested
from pipelines.ray_runtime.system_metrics import SystemMetrics
from sddusr import storage
from sddusr.checkpoint import CheckpointStore
from sddusr.cli import command_line
from sddusr.config import Config, from_dict
from sddusr.data.dataset import ShardSet
from sddusr.model.device import DeviceError, check_not_sliced, gpu_problem
from sddusr.runs.run_folder import RunFolder
from sddusr.training import distributed
from sddusr.training.learner import StepMemoryError
from sddusr.training.loop import NonFiniteError, train
from sddusr.training.signals import Sigterm, StopRequest
from sddusr.training.throughput import log_line

NOTICE_S = 2.0
"""Seconds between two questions to Ray, each of which is a barrier of all workers (6 ms)."""

SIGTERM = Sigterm()

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a rank hands back. Errors that a second try would meet again come back as data: Ray
    Train would start the workers anew for an exception."""

    progress: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    non_finite: bool = False
    stopped: bool = False
    """The command asked for the end; a checkpoint was saved."""

    def raise_error(self) -> None:
        if self.error:
            raise (NonFiniteError if self.non_finite else ValueError)(self.error)


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """One rank; runs in a process of Ray Train's, which has set up torch.distributed."""
    command_line.mask_streams()
    command_line.log_lines()
    for handler in logging.getLogger().handlers:
        handler.addFilter(is_not_of_a_report)
    folder = settings["folder"]
    if reason := final_error(folder):
        return asdict(Outcome(error=reason))
    config = from_dict(Config, settings["config"])
    reporter = RayReporter(settings)
    stop_flag = settings.get("stop_flag")
    try:
        device = pick_device()
        with sigterm_caught():
            progress = train(
                config,
                ShardSet(settings["data"]),
                store_of(folder, config),
                reporter,
                device,
                settings["run_id"],
                Notices(device, stop_flag),
            )
    except NonFiniteError as error:
        return asdict(Outcome(error=str(error), non_finite=True))
    except (StepMemoryError, DeviceError) as error:
        if distributed.world_size() > 1:
            set_final_error(folder, str(error))
            raise  # ends the other ranks, who wait for this one
        return asdict(Outcome(error=str(error)))
    except command_line.USER_ERRORS as error:
        if distributed.world_size() > 1:
            raise  # the other ranks may wait for this one; Ray Train ends them
        return asdict(Outcome(error=str(error)))
    if progress.step < config.train.num_steps and is_stop_requested(stop_flag):
        return asdict(Outcome(progress=progress.to_json(), stopped=True))
    if progress.step < config.train.num_steps:
        # A clean return would end the run; after an error Ray Train starts the workers anew.
        raise RuntimeError(f"asked to end; saved after step {progress.step}, to be resumed")
    return asdict(Outcome(progress=progress.to_json()))


def pick_device() -> torch.device:
    """The device that Ray gave to this worker.

    Raises:
        DeviceError: it is a GPU that PyTorch does not find.
    """
    context = ray.train.get_context()
    check_not_sliced(os.environ.get("CUDA_VISIBLE_DEVICES", ""), context.get_local_world_size())
    if ray.get_gpu_ids() and (problem := gpu_problem()):
        raise DeviceError(
            f"rank {context.get_world_rank()} on {socket.gethostname()} was given a GPU that "
            f"PyTorch does not find ({problem}); update the driver there, or pass --gpu False"
        )
    return get_device()


def is_not_of_a_report(record: logging.LogRecord) -> bool:
    """Ray tells each report of each rank, at length; the log's own lines say the same."""
    return not str(record.msg).startswith("Reporting training result")


def _catch_sigterm(_worker: Any) -> None:
    SIGTERM.install()


def _leave_sigterm(_worker: Any) -> None:
    SIGTERM.uninstall()


@contextmanager
def sigterm_caught() -> Iterator[None]:
    """SIGTERM asks for a stop. Only a process's main thread may say so, and Ray Train trains in
    another one; the worker's other calls run in the main thread."""
    worker = ray.get_runtime_context().current_actor
    ray.get(worker.__ray_call__.remote(_catch_sigterm))
    try:
        yield
    finally:
        ray.get(worker.__ray_call__.remote(_leave_sigterm))


class Notices:
    """What a worker is told about its end: SIGTERM, a stop of the command's, and Ray's notice that
    a node will be taken.

    After a notice Ray Train itself moves the workers when the time has come, and does not count it
    as a failure; so a checkpoint is written at once and training goes on until then.
    """

    def __init__(self, device: torch.device, stop_flag: Any = None) -> None:
        self._stop_flag = stop_flag if distributed.rank() == 0 else None
        self._device = device
        self._num_asked, self._every, self._since_s = 0, 1, time.monotonic()
        self._known: Any = None

    def __call__(self) -> StopRequest:
        self._num_asked += 1
        if self._num_asked < self._every:
            return SIGTERM()
        self._plan_next()
        notice = ray.train.get_preemption_info()
        is_new = notice is not None and notice != self._known
        self._known = notice
        if is_stop_requested(self._stop_flag):
            return StopRequest.STOP
        return max(SIGTERM(), StopRequest.SAVE if is_new else StopRequest.GO_ON)

    def _plan_next(self) -> None:
        """Ask again after so many steps as take `NOTICE_S`, counted alike on all ranks."""
        now_s = time.monotonic()
        step_us = round(1e6 * (now_s - self._since_s) / self._num_asked)
        slowest_us = max(distributed.all_reduce_max(step_us, self._device), 1)
        self._every = max(1, round(1e6 * NOTICE_S / slowest_us))
        self._num_asked, self._since_s = 0, now_s


class RayReporter:
    """Rank 0 writes to the run's folder and the log; all ranks meet in `report`."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        config = settings["config"]
        self._num_steps = config["train"]["num_steps"]
        self._batch_size = config["train"]["batch_size"]
        self._run = RunFolder(settings["folder"])
        self._clock = RunClock(self._run, settings.get("seconds_metric", ""))
        self._system = SystemMetrics()
        self._gauges = RunGauges(run_name(settings["folder"]), distributed.rank())

    def measure(self, metrics: Mapping[str, float]) -> None:
        self._gauges.set(metrics)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        system = self._system.read() if "train/total" in metrics else {}
        self._run.log_metrics(step, {**metrics, **system, **self._clock.read(step, metrics)})
        log.info(log_line(step, self._num_steps, metrics, self._batch_size))

    def show(self, step: int, pictures: Mapping[str, Any]) -> None:
        for key, picture in pictures.items():
            self._run.log_image(step, key, picture)

    def keep_file(self, path: str) -> None:
        self._run.add_artifact(path, "profile")

    def milestone(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report the checkpoint to Ray in place; it is written during the next steps."""
        checkpoint = None
        if distributed.rank() == 0:
            run: Any = ray.train.get_context().get_storage()
            place = f"{run.experiment_fs_path}/checkpoints/step-{step:08d}"
            checkpoint = ray.train.Checkpoint(place, run.storage_filesystem)
        ray.train.report(
            {"step": step, **metrics},
            checkpoint=checkpoint,
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )


def store_of(folder: str, config: Config) -> CheckpointStore:
    """The checkpoints of the run in `folder`."""
    return CheckpointStore(storage.join(folder, "checkpoints"), config.train.keep_checkpoints)
