"""A training run in a process of its own, to be ended by force."""

import itertools
import multiprocessing as mp
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from sddusr.checkpoint import CheckpointStore
from sddusr.config import Config, DataConfig, LossConfig, OptimConfig, TrainConfig
from sddusr.data.dataset import ShardSet
from sddusr.data.stream import BatchStream
from sddusr.training.learner import Learner
from sddusr.training.loop import train
from sddusr.training.signals import Sigterm, StopRequest
from tests.tiny import TINY, without_zero_starts

CONFIG = Config(
    model=replace(TINY, image_skip=True),
    optim=OptimConfig(lr=2e-3, max_grad_norm=1.0),
    data=DataConfig(crop_px=16, shift_px=(2, 8)),
    train=TrainConfig(
        num_steps=30,
        batch_size=2,
        log_every=1,
        validate_every=15,
        checkpoint_every=2,
        ema_decay=0.9,
        accumulate=2,
    ),
)

OF_TWO = replace(CONFIG, train=replace(CONFIG.train, num_steps=6, batch_size=4, validate_every=3))

CPU = torch.device("cpu")
CONTEXT = mp.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.loop"])


class StepFile:
    """A reporter that writes down each step, one byte a step."""

    def __init__(self, path: str) -> None:
        self._path = path

    def log(self, step, metrics):
        if "train/total" in metrics:
            with open(self._path, "ab") as file:
                file.write(b".")

    def measure(self, metrics):
        pass

    def show(self, step, pictures):
        pass

    def keep_file(self, path):
        pass

    def milestone(self, step, metrics):
        pass


def run(root: str, folder: str) -> None:
    """Train or go on in `folder`; its file `steps` grows by a byte with every step."""
    torch.set_num_threads(1)
    sigterm = Sigterm()
    sigterm.install()
    Path(folder).mkdir(exist_ok=True)
    store = CheckpointStore(f"{folder}/checkpoints", 3)
    reporter = StepFile(f"{folder}/steps")
    train(CONFIG, ShardSet(root), store, reporter, CPU, poll_request=sigterm)


def run_rank(root: str, folder: str, rank: int, stop_after: int) -> None:
    """One of two ranks, of which the second asks to stop after so many steps; 0 asks nothing."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet-{stop_after}", rank=rank, world_size=2)
    asked = itertools.count(1)

    def poll_request() -> StopRequest:
        return StopRequest.STOP if rank == 1 and next(asked) == stop_after else StopRequest.GO_ON

    store = CheckpointStore(f"{folder}/checkpoints", 3)
    reporter = StepFile(f"{folder}/steps")
    train(OF_TWO, ShardSet(root), store, reporter, CPU, poll_request=poll_request)
    dist.destroy_process_group()


def gradients(root: str, folder: str, rank: int, world: int) -> None:
    """A rank's gradients of the first batch, in micro-batches, to a file."""
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world)
    learner = Learner(replace(OF_TWO, train=replace(OF_TWO.train, precision="float32")), CPU)
    without_zero_starts(learner.model)
    share = {"rank": rank, "world": world}
    with BatchStream(ShardSet(root), OF_TWO.data, seed=0, batch_size=4, **share) as stream:
        learner.step(next(stream), 0)
    grads = {n: p.grad for n, p in learner.model.named_parameters() if p.grad is not None}
    torch.save(grads, f"{folder}/{rank}-of-{world}.pt")
    if world > 1:
        dist.destroy_process_group()


def uneven_shares(root: str, folder: str, vgg19: str, rank: int, world: int) -> None:
    """A rank's gradients of a second step on batches of three, with all losses, to a file."""
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world)
    losses = LossConfig(
        stage="full", vgg_weights=vgg19, discriminator_dim=4, adversarial_weight=1.0
    )
    train = replace(OF_TWO.train, precision="float32", batch_size=3, accumulate=2)
    learner = Learner(replace(OF_TWO, losses=losses, train=train), CPU)
    share = {"rank": rank, "world": world}
    with BatchStream(ShardSet(root), OF_TWO.data, seed=0, batch_size=3, **share) as stream:
        for step in range(2):
            learner.step(next(stream), step)
    grads = {n: p.grad for n, p in learner.model.named_parameters() if p.grad is not None}
    torch.save(grads, f"{folder}/{rank}-of-{world}.pt")
    if world > 1:
        dist.destroy_process_group()


def written(root: str, folder: str, rank: int, world: int) -> None:
    """A rank's written tokens after two steps, to a file."""
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world)
    dictionary = replace(TINY.dictionary, tokens="written", write_rate=0.5)
    model = replace(OF_TWO.model, dictionary=dictionary)
    train = replace(OF_TWO.train, precision="float32")
    learner = Learner(replace(OF_TWO, model=model, train=train), CPU)
    with BatchStream(
        ShardSet(root), OF_TWO.data, seed=0, batch_size=4, rank=rank, world=world
    ) as stream:
        for step in range(2):
            learner.step(next(stream), step)
    torch.save(dict(learner.model.dictionary.named_buffers()), f"{folder}/{rank}-of-{world}.pt")
    if world > 1:
        dist.destroy_process_group()


def together(target: Callable[..., None], *shares: tuple[object, ...]) -> list[int | None]:
    """Run a function in a process for each of the argument lists; their exit codes."""
    processes = [CONTEXT.Process(target=target, args=share) for share in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def start(root: str, folder: Path) -> mp.process.BaseProcess:
    process = CONTEXT.Process(target=run, args=(root, str(folder)))
    process.start()
    return process


def num_steps_done(folder: Path) -> int:
    """Steps of all runs in the folder, those done twice counted twice."""
    path = folder / "steps"
    return path.stat().st_size if path.exists() else 0


def training_processes(command: psutil.Process) -> list[psutil.Process]:
    """Workers of Ray Train below a command that has started a Ray of its own."""
    return [process for process in command.children(recursive=True) if _trains(process)]


def _trains(process: psutil.Process) -> bool:
    try:
        return "RayTrainWorker" in " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return False
