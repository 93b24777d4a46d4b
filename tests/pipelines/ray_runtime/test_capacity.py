import os

import pytest
import ray

from pipelines.ray_runtime import capacity as workers
from pipelines.ray_runtime import cluster
from pipelines.ray_runtime.capacity import WorkerOptions, scaling

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def nodes(monkeypatch):
    """Nodes as Ray lists them, to be filled by the test."""
    listed: list[dict] = []
    monkeypatch.setattr(ray, "nodes", lambda: listed)
    return listed


def node(**resources):
    return {"Alive": True, "Resources": resources}


@pytest.mark.parametrize(("text", "counts"), [("1", (1, 1)), (" 4 ", (4, 4)), ("2:8", (2, 8))])
def test_workers_are_a_number_or_the_fewest_and_the_most(text, counts):
    assert WorkerOptions(workers=text).counts == counts


@pytest.mark.parametrize("text", ["", "0", "-1", "3:2", "1:", "1:2:3", "two", "1.5"])
def test_other_workers_are_refused(text):
    with pytest.raises(ValueError, match=r"--workers is '.*', need a number such as 4"):
        WorkerOptions(workers=text)


def test_each_gpu_gets_a_worker_where_there_are_enough(nodes):
    nodes += [node(CPU=0), node(CPU=16, GPU=4), node(CPU=16, GPU=4)]
    found = scaling(WorkerOptions(workers="8"), batch_size=8)
    assert (found.num_workers, found.use_gpu) == (8, True)
    assert found.resources_per_worker == {"CPU": 4, "GPU": 1}


def test_an_elastic_run_starts_with_what_is_there(nodes):
    nodes += [node(CPU=4)]
    found = scaling(WorkerOptions(workers="1:8"), batch_size=8)
    assert found.num_workers == (1, 8)
    assert found.resources_per_worker == {"CPU": 1}


def test_too_few_gpus_are_said(nodes, caplog):
    nodes += [node(CPU=8, GPU=1)]
    assert not scaling(WorkerOptions(workers="2"), batch_size=4).use_gpu
    assert "1 GPUs for 2 workers: training on processors" in caplog.text
    with pytest.raises(ValueError, match=r"--workers is 2, the cluster has 1 GPUs"):
        scaling(WorkerOptions(workers="2", gpu=True), batch_size=4)


def test_cores_and_gpus_must_be_on_the_same_node(nodes):
    nodes += [node(CPU=8), node(CPU=1, GPU=2)]
    with pytest.raises(ValueError, match=r"no room for 2 workers of 1 cores"):
        scaling(WorkerOptions(workers="2", gpu=True, cpus_per_worker=1), batch_size=4)


def test_the_start_waits_for_nodes_where_it_is_told_to(nodes, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "ray.autoscaler.sdk.request_resources", lambda bundles: asked.append(bundles)
    )
    monkeypatch.setattr(workers, "POLL_S", 0.01)
    monkeypatch.setattr(workers.time, "sleep", lambda _: nodes.append(node(CPU=2, GPU=1)))
    options = WorkerOptions(workers="2", gpu=True, cpus_per_worker=2, wait_for_nodes_s=60)
    assert scaling(options, batch_size=4).num_workers == 2
    assert len(nodes) == 2
    assert asked == [[{"CPU": 2, "GPU": 1}] * 2, []]  # asked for, and the request taken back


def test_a_worker_gets_the_cores_of_a_node_that_has_a_gpu(nodes):
    nodes += [node(CPU=32), node(CPU=8, GPU=1)]
    assert scaling(WorkerOptions(), batch_size=4).resources_per_worker == {"CPU": 8, "GPU": 1}


def test_workers_on_mixed_nodes_get_what_the_smallest_share_allows(nodes):
    nodes += [node(CPU=64), node(CPU=16, GPU=4), node(CPU=6, GPU=2)]
    found = scaling(WorkerOptions(workers="6"), batch_size=8)
    assert found.resources_per_worker == {"CPU": 3, "GPU": 1}


def test_an_elastic_run_shares_the_gpus_that_are_there(nodes):
    nodes += [node(CPU=32), node(CPU=8, GPU=2)]
    found = scaling(WorkerOptions(workers="1:8"), batch_size=8)
    assert found.resources_per_worker == {"CPU": 4, "GPU": 1}


@pytest.mark.parametrize(
    ("num_actors", "gpus", "cores"), [(8, 1, 4), (12, 1 / 2, 2), (16, 1 / 2, 2), (17, 1 / 3, 1)]
)
def test_all_actors_find_a_gpu_to_share(nodes, num_actors, gpus, cores):
    nodes += [node(CPU=16, GPU=4), node(CPU=16, GPU=4)]
    share = cluster.gpus_for_each(num_actors)
    assert share == pytest.approx(gpus)
    assert cluster.cores_for_each(num_actors, "--num-actors", share) == cores


def test_more_actors_than_the_gpu_nodes_have_room_for_are_refused(nodes):
    nodes += [node(CPU=64), node(CPU=2, GPU=1)]
    with pytest.raises(ValueError, match=r"--num-actors is 3, .* room for 2 processes beside 0.5"):
        cluster.cores_for_each(3, "--num-actors", 0.5)


@pytest.mark.parametrize(("given", "cores"), [({0, 1}, None), ({1}, 1)])
def test_a_cluster_of_our_own_keeps_to_the_cores_it_was_given(monkeypatch, given, cores):
    """By `taskset` or a scheduler, which Ray does not ask."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: given, raising=False)
    asked = {}
    monkeypatch.setattr(ray, "init", lambda **options: asked.update(options))
    cluster._start_cluster(None)
    assert asked["num_cpus"] == cores
