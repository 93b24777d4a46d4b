"""Training on several real nodes: raylets of their own on this machine, and a bucket beside."""

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from pipelines.train import TrainOptions, run_training
from sddusr import storage as places
from sddusr.checkpoint import CheckpointStore, read_checkpoint
from sddusr.config import OptimConfig
from sddusr.runs.run_folder import RunFolder
from sddusr.training.loop import train
from tests.faults.loop import CONFIG, CPU, StepFile, training_processes

NODE = {"num_cpus": 2, "object_store_memory": 100 * 2**20}

STILL = replace(
    CONFIG,
    # So small that the network stands still: its gradients then depend on the samples alone.
    optim=OptimConfig(lr=1e-9, min_lr=0.0),
    train=replace(
        CONFIG.train,
        num_steps=100,
        batch_size=4,
        accumulate=1,
        ema_decay=0.0,
        precision="float32",
        checkpoint_every=10,
        validate_every=100,
    ),
)


@pytest.fixture
def cluster(bucket, monkeypatch):
    """A head without cores and two nodes of two."""
    ray.shutdown()
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")
    monkeypatch.setenv("RAY_health_check_period_ms", "1000")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    head = {"num_cpus": 0, "object_store_memory": 100 * 2**20, "dashboard_port": 0}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(**NODE) for _ in range(2)]
    ray.init(address=cluster.address)
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


def upload(folder: str, target: str) -> str:
    for path in Path(folder).iterdir():
        places.write_atomic(places.join(target, path.name), path.read_bytes())
    return target


def rows(run: Path) -> list[dict[str, float]]:
    return [row for row in RunFolder(str(run)).rows() if "train/workers" in row]


def squared_gradients(checkpoints: str) -> torch.Tensor:
    """Adam's mean of squared gradients, into which every sample of the run went."""
    last = read_checkpoint(f"{checkpoints}/step-{STILL.train.num_steps:08d}")
    states = last.train_state["optimizer"]["state"].values()
    return torch.cat([state["exp_avg_sq"].flatten() for state in states]).double()


def workers_at_the_end(run: Path) -> float:
    return rows(run)[-1]["train/workers"] if rows(run) else 0


@contextmanager
def standing_still() -> Iterator[list[psutil.Process]]:
    """Inside, the processes that train are stopped; none, while Ray Train starts others."""
    workers = training_processes(psutil.Process())
    for process in workers:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield workers
    finally:
        for process in workers:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def lose_and_regain_a_node(cluster: Cluster, victim, run: Path, training: Future) -> None:
    """Kill a node amid training; bring another when training goes on without it."""
    for happened in (
        lambda: len(rows(run)) >= 15,
        lambda: workers_at_the_end(run) == 2,
    ):
        while not happened() and not training.done():
            time.sleep(0.02)
        if victim is None:
            # Else the run may end before the node has come, or before Ray Train looks for nodes
            # again, which it does every 20 seconds.
            with standing_still() as workers:
                assert workers
                cluster.add_node(**NODE)
            while workers_at_the_end(run) == 2 and not training.done():
                with standing_still():
                    time.sleep(0.5)
                time.sleep(0.1)
        else:
            cluster.remove_node(victim, allow_graceful=False)
            victim = None


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_run_that_loses_a_node_and_gets_another_sees_every_sample_once(
    bucket, cluster, tiny_shards, tmp_path
):
    alone = CheckpointStore(str(tmp_path / "alone"), 3)
    train(STILL, tiny_shards, alone, StepFile(str(tmp_path / "steps")), CPU)
    options = TrainOptions(
        data=upload(tiny_shards.root, f"{bucket}/data"),
        storage=str(tmp_path),
        name="run",
        workers="2:4",
        cpus_per_worker=1,
        resize_every_s=1.0,
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        register_model="",
        config=STILL,
    )
    with ThreadPoolExecutor() as pool:  # nodes are added from the main thread alone
        training = pool.submit(run_training, options)
        lose_and_regain_a_node(cluster[0], cluster[1][1], tmp_path / "run", training)
        result = training.result()
    assert result.progress.step == STILL.train.num_steps
    sizes = [
        num for num, _ in itertools.groupby(row["train/workers"] for row in rows(tmp_path / "run"))
    ]
    assert sizes == [4, 2, 4]
    ours, theirs = (
        squared_gradients(f"{result.folder}/checkpoints"),
        squared_gradients(alone.folder),
    )
    # A sample left out or seen twice makes it 3e-3.
    assert (ours - theirs).norm() / theirs.norm() < 1e-4
