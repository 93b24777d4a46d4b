"""Processes on one card plan with their share of it, and of nothing else."""

from types import SimpleNamespace

import pytest
import ray
import torch

from pipelines.evaluate import EvaluateOptions
from pipelines.ray_runtime import cluster, scoring, upscaling
from sddusr.photos.jobs import Settings
from tune import trial


@pytest.fixture
def asked(monkeypatch):
    """What actors were asked for."""
    found = {}

    def map_actors(actor, args, **given):
        found.update(given, args=args)
        return iter(())

    for module in (scoring, upscaling):
        monkeypatch.setattr(module, "map_actors", map_actors)
        monkeypatch.setattr(module, "check_seen_by_all", lambda **_: None)
    monkeypatch.setattr(cluster, "init_ray", lambda: None)
    return found


@pytest.mark.parametrize(("num_gpus", "share"), [(1.0, 1.0), (0.5, 0.5), (0.0, 0.25)])
def test_actors_that_score_share_a_card_only_with_those_on_it(monkeypatch, asked, num_gpus, share):
    """Four actors on four cards have one each, on two half of one; else a quarter of the RAM."""
    monkeypatch.setattr(cluster, "gpus_for_each", lambda num: num_gpus)
    options = EvaluateOptions(data="shards", out="out", checkpoint="compact", num_actors=4)
    list(scoring.score_rows(options, options.num_actors, [], {}, False))
    assert asked["num_gpus"] == num_gpus
    assert asked["args"][-1] == share


@pytest.mark.parametrize(("num_gpus", "share"), [(1.0, 1.0), (0.5, 0.5), (0.0, 0.25)])
def test_actors_that_make_images_do_so_too(monkeypatch, asked, num_gpus, share):
    for name in ("check_weights", "_num_gpus"):
        monkeypatch.setattr(upscaling, name, lambda *_: num_gpus)
    attempts = SimpleNamespace(remote=lambda: None)
    monkeypatch.setattr(ray, "remote", lambda **_: lambda actor: attempts)
    jobs = [SimpleNamespace(wide="wide.png", out="out/sr.png") for _ in range(4)]
    make_all = getattr(upscaling.make_all, "__wrapped__", upscaling.make_all)
    list(make_all(jobs, Settings(checkpoint="compact", checkpoint_hash=""), 4))
    assert asked["num_gpus"] == num_gpus
    assert asked["args"][1].memory_share == share


@pytest.mark.parametrize(("gpus", "limits"), [(0.25, [0.25]), (1.0, [])])
def test_a_trial_keeps_to_its_share_of_a_card(monkeypatch, gpus, limits):
    """Two trials on one card would else each plan for 80 % of what is free."""
    found = []
    context = SimpleNamespace(get_assigned_resources=lambda: {"GPU": gpus})
    monkeypatch.setattr(trial.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", found.append)
    trial.take_share_of_gpu()
    assert found == limits
