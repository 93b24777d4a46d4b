import pytest
import torch

from sddusr.config import OptimConfig
from sddusr.training.optim import learning_rate, make_optimizer, set_learning_rate


def test_schedule_goes_from_lr_to_min_lr_and_never_up():
    rates = [learning_rate(step, 1000, OptimConfig()) for step in range(1000)]
    assert rates[0] == 1e-4
    assert rates[-1] == pytest.approx(1e-6)
    assert rates == sorted(rates, reverse=True)
    assert rates[500] == pytest.approx((1e-4 + 1e-6) / 2, rel=1e-2)


def test_warm_up_is_linear_and_meets_the_cosine_at_its_top():
    config = OptimConfig(lr=1.0, min_lr=0.0, warmup_steps=10)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[-1] == pytest.approx(0)


def test_a_single_step_is_a_run_too():
    assert learning_rate(0, 1, OptimConfig()) == 1e-4


def test_what_is_named_learns_at_its_share_of_the_rate():
    layers = [torch.nn.Linear(2, 2) for _ in range(3)]
    parameters = [p for layer in layers for p in layer.parameters()]
    slower = [(layers[1].parameters(), 0.25), (layers[2].parameters(), 0.5)]
    optimizer = make_optimizer(parameters, OptimConfig(lr=1.0, min_lr=0.0), slower)
    before = [p.detach().clone() for p in parameters]
    set_learning_rate(optimizer, 0.1, step=0)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()  # Adam's first step has the length of its rate
    moved = [(b - p).detach().mean().item() for b, p in zip(before, parameters, strict=True)]
    assert moved == pytest.approx([0.1, 0.1, 0.025, 0.025, 0.05, 0.05])


def test_what_is_slower_keeps_still_until_its_step():
    layers = [torch.nn.Linear(2, 2) for _ in range(2)]
    parameters = [p for layer in layers for p in layer.parameters()]
    config = OptimConfig(align_from_step=3)
    optimizer = make_optimizer(parameters, config, [(layers[1].parameters(), 0.5)])
    rates = []
    for step in range(5):
        set_learning_rate(optimizer, 0.1, step)
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert rates == [[0.1, 0.0]] * 3 + [[0.1, 0.05]] * 2
