"""The compiled training step, in a process without the shape checks, which compilers trip over."""

import os
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from sddusr.config import Config, DataConfig, OptimConfig, TrainConfig
from sddusr.data.dataset import ShardSet
from sddusr.data.stream import BatchStream
from sddusr.model.tuning import GPU
from sddusr.training.learner import Learner
from tests.faults.loop import together
from tests.tiny import TINY
from tests.tunings import tuned

CONFIG = Config(
    model=replace(TINY, alignment=replace(TINY.alignment, spynet_levels=1)),
    optim=OptimConfig(lr=2e-3),
    data=DataConfig(crop_px=16, shift_px=(2, 8)),
    train=TrainConfig(num_steps=2, batch_size=2, precision="float32"),
)


def losses(root: str, compiled: bool) -> list[float]:
    config = replace(CONFIG, train=replace(CONFIG.train, compile=compiled))
    learner = Learner(config, torch.device("cpu"))
    with BatchStream(ShardSet(root), config.data, seed=0, batch_size=2) as stream:
        return [learner.step(next(stream), step)["total"].item() for step in range(2)]


def compare(root: str, backend: str) -> None:
    torch.set_num_threads(1)
    torch.compile = partial(torch.compile, backend=backend)
    assert losses(root, compiled=True) == pytest.approx(losses(root, compiled=False), rel=1e-4)


def check_traced_once() -> None:
    """Two graphs, before and after the matching, which is not compiled, and none of a later step:
    shapes are fixed, and nothing else breaks a graph."""
    assert len(counters["graph_break"]) == 1, counters
    assert "SparseMatching.forward" in next(iter(counters["graph_break"]))
    assert counters["stats"]["unique_graphs"] == 2, counters


def trace_for_a_gpu(root: str) -> None:
    """Backward is traced too; the GPU's sizes, and so its operators."""
    torch.set_num_threads(1)
    torch.compile = partial(torch.compile, backend="aot_eager")
    with tuned(GPU):
        losses(root, compiled=True)
    check_traced_once()


@pytest.mark.long
def test_the_compilers_graph_computes_the_eager_losses(tiny_shards):
    """What a compiler is given, without kernels of its own."""
    assert together(compare, (tiny_shards.root, "eager")) == [0]


@pytest.mark.long
def test_forward_and_backward_are_traced_once_for_a_gpu(tiny_shards):
    assert together(trace_for_a_gpu, (tiny_shards.root,)) == [0]


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler, g++")
@pytest.mark.skipif(
    not os.environ.get("SDDUSR_SLOW_TESTS"), reason="compiles for minutes; set SDDUSR_SLOW_TESTS=1"
)
def test_the_compiled_step_computes_the_eager_losses(tiny_shards):
    assert together(compare, (tiny_shards.root, "inductor")) == [0]
