import pytest
import torch

from sddusr.model.device import check_not_sliced, gpu_problem


def test_an_old_driver_is_said_in_a_line(monkeypatch):
    def init():
        raise RuntimeError(
            "The NVIDIA driver on your system is too old (found version 11040). Please update your "
            "GPU driver by downloading one.\nMore lines"
        )

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    message = gpu_problem()
    assert "is built for CUDA 13.0: The NVIDIA driver on your system is too old" in message
    assert "\n" not in message


def test_a_build_without_cuda_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert gpu_problem() == "this PyTorch was built without CUDA"


def test_a_gpu_that_is_there_is_no_problem(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not gpu_problem()


def test_several_workers_on_slices_of_a_gpu_are_refused():
    slices = "MIG-1f2e, MIG-3a4b"
    check_not_sliced(slices, 1)
    check_not_sliced("0,1", 2)
    with pytest.raises(ValueError, match=r"2 workers on a node whose GPUs are MIG slices.*switch"):
        check_not_sliced(slices, 2)
