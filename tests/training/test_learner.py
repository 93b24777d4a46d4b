from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sddusr.checkpoint import Checkpoint
from sddusr.config import Config, DataConfig, LossConfig, OptimConfig, TrainConfig
from sddusr.data.stream import BatchStream
from sddusr.inference.fused import _cast
from sddusr.training.learner import Learner, NonFiniteError, StepMemoryError
from sddusr.training.micro_batches import fastest_parts, micro_batches
from tests.tiny import TINY, without_zero_starts
from tests.tunings import tuned

CPU = torch.device("cpu")

CONFIG = Config(
    model=replace(TINY, image_skip=True),
    optim=OptimConfig(lr=2e-3),
    data=DataConfig(crop_px=16, shift_px=(2, 8)),
    train=TrainConfig(num_steps=6, batch_size=4, precision="float32"),
)


def make_learner(config=CONFIG, **train):
    learner = Learner(replace(config, train=replace(config.train, **train)), CPU)
    without_zero_starts(learner.model)
    learner.start_average()
    return learner


def a_batch(shards, **share):
    with BatchStream(shards, CONFIG.data, seed=0, batch_size=4, **share) as stream:
        return next(stream)


def gradients(learner):
    named = learner.model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_loss_stops_before_the_update(tiny_shards, value):
    learner, batch = make_learner(), a_batch(tiny_shards)
    batch.hr[0, 0, 0, 0] = value
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    with pytest.raises(NonFiniteError, match=rf"step 7, rank 0: .*samples .*{batch.ids[0]}"):
        learner.step(batch, 7)
    torch.testing.assert_close(dict(learner.model.state_dict()), before, rtol=0, atol=0)


def test_no_run_goes_on_from_a_network_alone():
    learner = make_learner()
    handed_on = Checkpoint(
        place="compact",
        config=CONFIG,
        progress={"step": 3},
        model_state=learner.model.state_dict(),
        train_state=None,
    )
    with pytest.raises(ValueError, match=r"compact: .*no run goes on.* --train.init-from"):
        learner.restore(handed_on)


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_ranks_gradients_add_up_to_the_whole_batchs(tiny_shards, num_ranks):
    """Shares of a global batch of 4, equal or not, without the wire between the ranks: each counts
    by its size, so their sum is what the wire's average of weighted ones would be."""
    learner = make_learner()

    def of_share(rank, world):
        learner.step(a_batch(tiny_shards, rank=rank, world=world), 0)
        return gradients(learner)

    start = {name: value.clone() for name, value in learner.model.state_dict().items()}
    whole, shares = of_share(0, 1), []
    for rank in range(num_ranks):
        learner.model.load_state_dict(start)
        shares.append(of_share(rank, num_ranks))
    added = {name: torch.stack([share[name] for share in shares]).sum(0) for name in whole}
    torch.testing.assert_close(added, whole, rtol=1e-3, atol=1e-6)


def test_micro_batches_give_the_gradient_of_the_batch(tiny_shards, vgg19_file):
    """The relativistic adversarial loss too, which compares with means over the whole batch."""
    losses = LossConfig(
        stage="full", vgg_weights=vgg19_file, discriminator_dim=4, adversarial_weight=1.0
    )
    batch, results = a_batch(tiny_shards), []
    for accumulate in (1, 2, 3):
        learner = make_learner(replace(CONFIG, losses=losses), accumulate=accumulate)
        without_zero_starts(learner.adversary.discriminator)
        terms = learner.step(batch, 0)
        grads = {n: p.grad for n, p in learner.adversary.discriminator.named_parameters()}
        results.append((terms, gradients(learner), grads))
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(results[2], results[0], rtol=1e-3, atol=1e-6)


def test_a_batch_is_cut_into_parts_of_about_equal_size_and_none_is_empty(tiny_shards):
    batch = a_batch(tiny_shards)
    for num, sizes in ((1, [4]), (2, [2, 2]), (3, [1, 1, 2]), (4, [1] * 4), (9, [1] * 4)):
        parts = micro_batches(batch, num)
        assert [len(part.ids) for part in parts] == sizes
        assert [id for part in parts for id in part.ids] == [*batch.ids]


def test_a_processor_gets_parts_whose_maps_are_small(tiny_shards):
    """16 channels of 2 x 2 x crop² float32 are `sample` bytes."""
    batch, sample = a_batch(tiny_shards), 4 * CONFIG.model.dim * (2 * CONFIG.data.crop_px) ** 2
    for most, num in ((4 * sample, 1), (4 * sample - 1, 2), (sample, 4), (1, 4)):
        with tuned(micro_batch_bytes=most):
            assert fastest_parts(CONFIG, CPU, batch, 4) == num
        assert fastest_parts(CONFIG, torch.device("cuda"), batch, 4) == 1


def test_a_fused_step_is_noticed_by_who_keeps_copies_of_weights(tiny_shards):
    """It changes weights without their version, by which inference knows its bfloat16 copies."""
    with tuned(fused_adam=True):
        learner, batch = make_learner(), a_batch(tiny_shards)
        layers = [m for m in learner.model.lr_encoder.modules() if isinstance(m, nn.Conv2d)]
        for step in range(2):
            learner.step(batch, step)
            for layer in layers:
                copied, _ = _cast(layer, torch.bfloat16)
                torch.testing.assert_close(copied, layer.weight.bfloat16(), rtol=0, atol=0)


def test_gradients_in_a_fixed_order_are_the_same(tiny_shards):
    batch, found = a_batch(tiny_shards), []
    for deterministic in (False, True):
        learner = make_learner(deterministic=deterministic)
        terms = learner.step(batch, 0)
        found.append((terms, gradients(learner)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-6)


def test_too_little_memory_is_said_with_what_helps(tiny_shards, monkeypatch):
    def run_out(_):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"
        )

    learner = make_learner()
    monkeypatch.setattr(learner, "_gradients", run_out)
    with pytest.raises(StepMemoryError, match=(
        r"^rank 0: the GPU's memory does not hold a step of 4 samples of 16x16 LR pixels "
        r"\(Tried to allocate 2.00 GiB\); raise --train.accumulate \(up to 4\), or lower "
        r"--data.crop-px or --train.batch-size: a new run, which --train.init-from may start "
            r"with this one.s weights$"
    )):  # fmt: skip
        learner.step(a_batch(tiny_shards), 0)


def test_long_gradients_are_scaled_down_and_their_length_is_told(tiny_shards):
    batch = a_batch(tiny_shards)
    free = make_learner()
    norm = free.step(batch, 0)["gradient_norm"]
    limit = float(norm) / 3
    clipped = make_learner(replace(CONFIG, optim=OptimConfig(lr=2e-3, max_grad_norm=limit)))
    assert clipped.step(batch, 0)["gradient_norm"] == norm
    scaled = {name: grad / 3 for name, grad in gradients(free).items()}
    torch.testing.assert_close(gradients(clipped), scaled, rtol=1e-4, atol=0)


def test_averaged_weights_follow_in_float32(tiny_shards):
    learner, batch = make_learner(ema_decay=0.15, precision="bfloat16"), a_batch(tiny_shards)
    name = "fusion.body.0.weight"
    expected = learner.model.state_dict()[name].clone()
    for step, decay in enumerate((0.1, 0.15)):  # 1 / 10, and then less than 2 / 11
        learner.step(batch, step)
        expected = decay * expected + (1 - decay) * learner.model.state_dict()[name]
    averaged = learner.published.state_dict()[name]
    assert averaged.dtype == torch.float32
    assert learner.published is not learner.model
    torch.testing.assert_close(averaged, expected)
    assert not torch.equal(averaged, learner.model.state_dict()[name])


class Seen(TorchDispatchMode):
    """Remembers the number formats that arrive at each operator."""

    def __init__(self):
        super().__init__()
        self.formats = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        formats = {a.dtype for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()}
        self.formats.setdefault(func.overloadpacket.__name__, set()).update(formats)
        return func(*args, **(kwargs or {}))


def test_bfloat16_stays_out_of_what_needs_float32(tiny_shards, vgg19_file):
    losses = LossConfig(stage="full", vgg_weights=vgg19_file, discriminator_dim=4)
    learner = make_learner(replace(CONFIG, losses=losses), precision="bfloat16")
    arrived = {}

    def watch(name):
        def look(_, inputs, output):
            arrived.setdefault(name, set()).update({x.dtype for x in (*inputs, output)})

        return look

    for name, module in learner.model.named_modules():
        if name.startswith(("alignment.spynet.levels.", "alignment.offset_tail")):
            module.register_forward_hook(watch("flow" if "spynet" in name else "offsets"))
    learner.model.fusion.register_forward_hook(
        lambda _, inputs, output: arrived.setdefault("fusion", set()).add(output.dtype)
    )
    with Seen() as seen:
        terms = learner.step(a_batch(tiny_shards), 0)
    exact = {torch.float32}
    assert arrived.pop("fusion") == {torch.bfloat16}  # autocast is on at all
    assert arrived == {"flow": exact, "offsets": exact}
    for name in ("_softmax", "_log_softmax", "sqrt", "mse_loss", "softplus", "grid_sampler_2d"):
        assert seen.formats[name] == exact, name
    assert {term.dtype for term in terms.values()} == exact
    assert {p.grad.dtype for p in learner.model.parameters() if p.grad is not None} == exact


def test_flow_and_offsets_take_no_gradient_before_they_learn(tiny_shards):
    learner = make_learner(replace(CONFIG, optim=replace(CONFIG.optim, align_from_step=2)))
    alignment, batch = learner.model.alignment, a_batch(tiny_shards)
    held = [*alignment.spynet.parameters(), *alignment.offset_parameters()]
    before = [parameter.detach().clone() for parameter in held]
    for step in range(2):
        learner.step(batch, step)
        assert all(parameter.grad is None for parameter in held)
        assert all(torch.equal(*pair) for pair in zip(held, before, strict=True))
    learner.step(batch, 2)
    assert all(parameter.grad is not None for parameter in held)
    assert any(not torch.equal(*pair) for pair in zip(held, before, strict=True))
