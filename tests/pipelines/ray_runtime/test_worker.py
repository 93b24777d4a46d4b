"""What ends a worker, and what keeps it from its device."""

from types import SimpleNamespace

import pytest
import ray.train
import torch

from pipelines.ray_runtime import final_error, worker
from sddusr.model.device import DeviceError


@pytest.fixture
def kept(monkeypatch):
    """The cluster's store, as a dict."""
    store: dict[str, bytes] = {}
    monkeypatch.setattr(
        final_error, "_internal_kv_put", lambda key, value: store.update({key: value.encode()})
    )
    monkeypatch.setattr(final_error, "_internal_kv_get", store.get)
    monkeypatch.setattr(final_error, "_internal_kv_del", lambda key: store.pop(key, None))
    return store


def test_workers_that_are_started_again_hand_a_final_error_back(kept, monkeypatch):
    for name in ("mask_streams", "log_lines"):
        monkeypatch.setattr(worker.command_line, name, lambda: None)
    final_error.set_final_error("runs/a", "rank 1: the GPU's memory does not hold a step")
    assert worker.train_worker({"folder": "runs/a"}) == {
        "progress": {},
        "error": "rank 1: the GPU's memory does not hold a step",
        "non_finite": False,
        "stopped": False,
    }
    assert not final_error.final_error("runs/b")
    final_error.clear_final_error("runs/a")
    assert not final_error.final_error("runs/a")


def test_a_gpu_that_pytorch_does_not_find_is_said_with_rank_and_reason(monkeypatch):
    context = SimpleNamespace(get_local_world_size=lambda: 1, get_world_rank=lambda: 3)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(worker.ray, "get_gpu_ids", lambda: [0])
    monkeypatch.setattr(worker, "gpu_problem", lambda: "the driver is too old")
    with pytest.raises(
        DeviceError, match=r"^rank 3 on .* does not find \(the driver is too old\); update"
    ):
        worker.pick_device()
    monkeypatch.setattr(worker.ray, "get_gpu_ids", list)
    monkeypatch.setattr(worker, "get_device", lambda: torch.device("cpu"))
    assert worker.pick_device() == torch.device("cpu")
