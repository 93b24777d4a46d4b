"""What a GPU would meet: devices that mix, waits, launches and layouts, on a pretend one."""

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import reference
from sddusr.config import DEMO, PAPER, PRESETS, Config, MaskConfig
from sddusr.data.stream import BatchStream
from sddusr.evaluation.metrics import score
from sddusr.evaluation.scoring import EvaluationConfig, Scorer
from sddusr.geometry.box import Box
from sddusr.inference import super_resolve
from sddusr.inference.memory import Plan
from sddusr.model.sddusr import SDDuSR
from sddusr.model.tuning import GPU, place_on
from sddusr.training.feed import device_batches
from sddusr.training.learner import Learner
from sddusr.training.validation import validate
from sddusr.types import Batch
from tests.pretend_gpu import CUDA, MixedDevicesError, pretend_gpu, pretend_step
from tests.runs import CONFIG
from tests.runs import run as train_run
from tests.tiny import TINY, pictures

CPU = torch.device("cpu")

STEP_SYNCS, STEP_LAUNCHES = 2, 2500
RECORDED_LAUNCHES = 60
PICTURE_SYNCS, PICTURE_LAUNCHES = 10, 2000


def without_downloads(config: Config, **losses) -> Config:
    """The same with networks whose weights are random."""
    model = replace(
        config.model,
        matching=replace(config.model.matching, vgg_weights="none"),
        alignment=replace(config.model.alignment, spynet_weights="none"),
    )
    train = replace(config.train, precision="bfloat16")
    return replace(config, model=model, train=train, losses=replace(config.losses, **losses))


def some_batch(num: int, crop: int) -> Batch:
    return Batch(
        ids=tuple(map(str, range(num))),
        lr=torch.zeros(num, 3, crop, crop),
        lr_center=torch.zeros(num, 3, crop, crop),
        ref=torch.zeros(num, 3, 2 * crop, 2 * crop),
        hr=torch.zeros(num, 3, 2 * crop, 2 * crop),
        mask_label=torch.zeros(num, 1, crop // 2, crop // 2),
        seeds=torch.zeros(num, dtype=torch.long),
        center_offset=torch.zeros(num, 2, dtype=torch.long),
        has_ref=torch.ones(num, dtype=torch.bool),
        gumbel=torch.zeros(num, 2, crop // 2, crop // 2),
    )


def counted_step(config: Config, crop: int, num: int = 2):
    """The counts of a step whose optimizer has its states, as all but a run's first."""
    with pretend_step() as gpu:
        learner = Learner(config, CPU)
        learner.start_average()
        optimizers = [learner.optimizer, *([learner.adversary.optimizer] if learner.adversary
                                           else [])]  # fmt: skip
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
        batch = some_batch(num, crop)
        gpu.reset()
        learner.step(batch, 10**5)  # flow and offsets learn by then
    return gpu.counts


def small_vgg19():
    """Random weights in the perceptual loss."""
    vgg = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    return mock.patch("sddusr.training.losses.load_vgg19", return_value=vgg)


def check_budget(counts, syncs: int, launches: int) -> None:
    assert counts.num_syncs <= syncs, counts.explain(counts.syncs)
    assert counts.num_launches <= launches, counts.explain(counts.launches)
    assert not counts.nchw, counts.explain(counts.nchw)


@pytest.mark.parametrize(("preset", "crop", "num"), [("paper", 128, 4), ("demo", 32, 8)])
def test_a_step_stays_within_its_budget(preset, crop, num):
    counts = counted_step(without_downloads(PRESETS[preset][1]), crop, num)
    check_budget(counts, STEP_SYNCS, STEP_LAUNCHES)


def test_a_step_of_the_full_stage_with_an_average_stays_within_its_budget():
    config = without_downloads(replace(PAPER, model=TINY), stage="full")
    config = replace(config, train=replace(config.train, ema_decay=0.999))
    with small_vgg19():
        counts = counted_step(config, 32)
    check_budget(counts, STEP_SYNCS, STEP_LAUNCHES)


def test_the_reference_mixes_no_devices():
    """It is measured beside ours on a card."""
    dense = replace(TINY, mask=MaskConfig(enabled=False))
    with pretend_gpu(shapes_only=True):
        model = place_on(SDDuSR(dense).requires_grad_(False), CUDA)
        images = [image.to(CUDA) for image in pictures(batch=1)]
        assert reference.super_resolve(model, *images).device == CUDA
        assert reference.train_forward(model, *images).device == CUDA


@pytest.mark.parametrize("preset", ["paper", "demo"])
def test_an_image_stays_within_its_budget(preset):
    config = without_downloads(PRESETS[preset][1]).model
    lr, ref = np.zeros((448, 896, 3), np.uint8), np.zeros((448, 896, 3), np.uint8)
    with pretend_gpu(shapes_only=True) as gpu:
        model = place_on(SDDuSR(config).eval().requires_grad_(False), CUDA)
        for _ in range(2):
            gpu.reset()
            super_resolve(model, lr, ref, Box(224, 672, 448, 1344), "bfloat16", dtype=np.uint8)
    check_budget(gpu.counts, PICTURE_SYNCS, PICTURE_LAUNCHES)
    assert not gpu.counts.casts, gpu.counts.explain(gpu.counts.casts)  # of the second image


def test_training_forward_mixes_no_devices_and_copies_ahead(tiny_shards):
    config = replace(CONFIG, model=replace(DEMO.model, detail=replace(DEMO.model.detail)))
    with (
        pretend_gpu() as gpu,
        BatchStream(tiny_shards, config.data, seed=0, batch_size=2, as_bytes=True) as stream,
    ):
        model = place_on(SDDuSR(config.model), CUDA)
        gpu.reset()
        batches = device_batches(stream, CUDA, with_noise=True)
        batch = next(batches)
        assert not gpu.counts.syncs, gpu.counts.explain(gpu.counts.syncs)
        gpu.reset()
        with torch.autocast("cuda", torch.bfloat16):
            output = model(*batch[1:4], batch.seeds, batch.center_offset, batch.has_ref,
                           batch.gumbel)  # fmt: skip
    assert output.sr.device == CUDA
    assert not gpu.counts.syncs, gpu.counts.explain(gpu.counts.syncs)
    assert not gpu.counts.nchw, gpu.counts.explain(gpu.counts.nchw)


def made(model, lr, ref, device, **given):
    box = Box(8, 40, 16, 64)
    if device == CPU:
        return super_resolve(model, lr, ref, box, "float32", **given)
    with pretend_gpu() as gpu:
        result = super_resolve(place_on(model, CUDA), lr, ref, box, "float32", **given)
    assert not gpu.counts.nchw, gpu.counts.explain(gpu.counts.nchw)
    return result


@pytest.mark.parametrize("plan", [None, Plan(64, 16, 8, torch.float32, 1),
                                  Plan(64, 16, 8, torch.float32, 0)])  # fmt: skip
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_whole_and_tiled_images_are_the_cpus(plan, dtype):
    torch.manual_seed(0)
    config = replace(DEMO.model, dim=8, alignment=replace(DEMO.model.alignment, num_groups=2))
    model = SDDuSR(config).eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    lr, ref = (rng.integers(0, 256, (*size, 3), np.uint8) for size in ((40, 48), (32, 48)))
    ours, theirs = (made(model, lr, ref, device, plan=plan, dtype=dtype) for device in (CPU, CUDA))
    most = 1 if dtype == np.uint8 else 1e-4
    assert np.abs(ours.sr.astype(np.float64) - theirs.sr.astype(np.float64)).max() <= most
    assert np.array_equal(ours.matches.key_index, theirs.matches.key_index)
    np.testing.assert_allclose(ours.matches.confidence, theirs.matches.confidence, atol=1e-5)


def test_validation_makes_and_scores_its_images_on_the_card(tiny_shards):
    """Scores in float64 would take a CPU seconds an image while the card is idle."""
    model = SDDuSR(TINY).eval().requires_grad_(False)
    wanted, _ = validate(model, tiny_shards, "float32", limit=1)
    scored_on = []

    def watched(sr, hr, *given):
        scored_on.extend([sr.device, hr.device])
        return score(sr, hr, *given)

    with pretend_gpu(), mock.patch("sddusr.training.validation.score", watched):
        scores, shown = validate(place_on(model, CUDA), tiny_shards, "float32", limit=1)
    assert set(scored_on) == {CUDA}
    assert scores == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    assert shown


def test_an_evaluation_makes_and_scores_its_images_on_the_card(tiny_shards, tmp_path):
    """Its own networks, the image without Ref and the scores; bicubic and paste are made beside."""
    train_run(tiny_shards, tmp_path)
    config = EvaluationConfig(
        data=tiny_shards.root, checkpoint=str(tmp_path), without_ref=True, save_pictures=False
    )
    row = tiny_shards.rows("test")[0]
    wanted = Scorer(config, {}, with_lpips=False).evaluate(row)
    with pretend_gpu() as gpu:
        scorer = Scorer(config, {}, with_lpips=False)
        gpu.reset()
        scores = scorer.evaluate(row)
    assert not gpu.counts.nchw, gpu.counts.explain(gpu.counts.nchw)
    assert gpu.counts.convolutions
    assert [each.method for each in scores] == [each.method for each in wanted]
    for ours, theirs in zip(scores, wanted, strict=True):
        assert ours.scores == pytest.approx(theirs.scores, rel=1e-4, abs=1e-4)


def test_a_tensor_of_the_cpu_is_found():
    with pretend_gpu():
        model = place_on(SDDuSR(TINY).eval(), CUDA)
        lr, center, ref = pictures()
        with pytest.raises(MixedDevicesError, match=r"met tensors of cuda:0 and of the CPU"):
            model(lr.to(CUDA), center.to(CUDA), ref)


@pytest.mark.parametrize(
    ("wait", "kind"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: x.cpu(), "download, pageable"),
        (lambda x: x[x > 0], "index"),
        (lambda x: (x > 0).nonzero(), "nonzero"),
        (lambda x: x.new_tensor([1.0, 2.0]), "upload, pageable"),
        (lambda x: torch.tensor([1, 2], device=x.device), "upload, pageable"),
        (lambda x: x[:, torch.tensor([0])], "indices of the CPU"),
        (bool, "_local_scalar_dense"),
    ],
)
def test_a_wait_for_the_card_is_found(wait, kind):
    with pretend_gpu() as gpu:
        x = torch.ones(1, 1, device=CUDA) if wait is bool else torch.ones(2, 2, device=CUDA)
        gpu.reset()
        wait(x)
    (line,) = gpu.counts.syncs
    assert kind in line
    assert "test_pretend_gpu.py" in line


def test_a_copy_from_pinned_memory_is_no_wait():
    with pretend_gpu() as gpu:
        torch.ones(3).pin_memory().to(CUDA, non_blocking=True)
    assert gpu.counts.copies.total() == 1
    assert not gpu.counts.syncs


def test_a_convolution_in_nchw_is_found():
    with pretend_gpu() as gpu:
        nn.Conv2d(3, 4, 3).to(CUDA)(torch.ones(1, 3, 8, 8, device=CUDA))
        assert gpu.counts.nchw.total() == 1
        gpu.reset()
        place_on(nn.Conv2d(3, 4, 3), CUDA)(torch.ones(1, 3, 8, 8, device=CUDA))
        assert not gpu.counts.nchw


def test_a_gpu_takes_its_own_sizes():
    assert GPU.transfer_cells > 10**5
    assert GPU.deform_operator
    assert GPU.soft_batched


@pytest.mark.parametrize("stage", ["rec", "full"])
def test_deterministic_training_adds_up_nothing_in_any_order(stage):
    """No operator that torch's switch refuses is dispatched, forward or backward, and none whose
    backward would be."""
    config = without_downloads(replace(PAPER, model=TINY), stage=stage)
    counts = {}
    for is_on in (False, True):
        ordered = replace(config, train=replace(config.train, deterministic=is_on))
        with small_vgg19():
            counts[is_on] = counted_step(ordered, 32).nondeterministic
    names = " ".join(counts[False])
    assert "deform_conv2d_backward" in names
    assert "grid_sampler_2d_backward" in names
    assert not counts[True], counts[True]


def test_a_recorded_step_starts_few_kernels_by_itself():
    """All but a copy of the batch, the norm, its check, the update and the average."""
    config = without_downloads(PAPER)
    train = replace(config.train, cuda_graph=True, ema_decay=0.999)
    recorded = []

    def record(work):
        recorded.append(work())
        return recorded[0], lambda: None

    with (
        mock.patch("sddusr.training.step_graph.record", record),
        mock.patch("sddusr.training.step_graph.WARM_UP_STEPS", 0),
        mock.patch("sddusr.training.learner.check_graph"),
        pretend_step() as gpu,
    ):
        learner = Learner(replace(config, train=train), CPU)
        learner.start_average()
        for step in range(2):
            gpu.reset()
            learner.step(some_batch(4, 128), 10**5 + step)
    assert len(recorded) == 1
    check_budget(gpu.counts, STEP_SYNCS, RECORDED_LAUNCHES)
