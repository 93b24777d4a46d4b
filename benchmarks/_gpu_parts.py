"""The parts of gpu.py: each yields rows."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import _gpu_run
import numpy as np
import reference
import torch
import torch.nn.functional as F
from _gpu_parity import parity
from _gpu_setup import (
    FORMATS,
    Row,
    Setup,
    batch_of,
    config_of,
    image_maker,
    learner_of,
    needs_values,
    on_device,
    pretending,
)
from _network import model_config, network, textured
from torch import Tensor, nn

from sddusr.model.matching.nearest_key import block_search, plain_search
from sddusr.model.matching.patches import unit_patches
from sddusr.model.precision import computing_in
from sddusr.model.sddusr import SDDuSR
from sddusr.model.tuning import CPU, TUNINGS, place_on, tuning
from sddusr.training.learner import Learner
from sddusr.training.losses import charbonnier
from sddusr.training.step_graph import WARM_UP_STEPS
from sddusr.types import Batch

MEMORY_BYTES = 4 * 10**9
"""What the largest image may take."""


@needs_values
def ceilings(setup: Setup) -> Iterator[Row]:
    """What the card reaches at its best."""
    side = 512 if setup.is_quick else 8192
    x = setup.random(side, side)
    yield {"what": "copy", "gb_per_s": 8e-9 * side**2 / setup.seconds(lambda: x.clone())}
    for precision in FORMATS:
        with computing_in(precision, setup.device):
            spent = setup.seconds(lambda: x @ x)
        yield {"what": "product", "format": precision, "tflops": 2e-12 * side**3 / spent}
    rows = 32 if setup.is_quick else 512
    for layout in ("channels_last", "contiguous_format"):
        conv = nn.Conv2d(64, 64, 3, padding=1).to(setup.device)
        conv = conv.to(memory_format=getattr(torch, layout)).requires_grad_(False)
        maps = setup.random(1, 64, rows, rows).to(memory_format=getattr(torch, layout))
        with computing_in("bfloat16", setup.device):
            spent = setup.seconds(lambda conv=conv, maps=maps: conv(maps))
        yield {"what": "conv3x3", "layout": layout, "tflops": 2e-12 * 9 * 64**2 * rows**2 / spent}
    one = setup.random(1)
    spent = setup.seconds(lambda: [one.add_(1) for _ in range(1000)])
    yield {"what": "launch", "microseconds": 1e3 * spent}


@needs_values
def determinism(setup: Setup) -> Iterator[Row]:
    """Twice the same bits: steps, a resumed run, an image."""
    num, crop = (2, 16) if setup.is_quick else (6, 32)
    for deterministic in (False, True):
        ends = []
        for split in (0, 0, num // 2):
            learner = learner_of("demo", setup, deterministic=deterministic)
            for step in range(num):
                if split and step == split:
                    learner = _resumed(learner, setup)
                learner.step(on_device(batch_of(2, crop, step), setup), step)
            ends.append([p.detach().cpu() for p in learner.model.parameters()])
        for name, end in (("again", ends[1]), ("resumed", ends[2])):
            same = all(torch.equal(a, b) for a, b in zip(ends[0], end, strict=True))
            row = {"what": f"steps, {name}", "deterministic": deterministic, "bit_equal": same}
            yield row | ({"passes": same} if deterministic else {})
    model = place_on(network("demo").eval().requires_grad_(False), setup.device)
    first, second = (image_maker(model, (64, 96), "float32")().sr for _ in range(2))
    yield {"what": "image", "bit_equal": bool((first == second).all()),
           "passes": bool((first == second).all())}  # fmt: skip


def _resumed(learner: Learner, setup: Setup) -> Learner:
    """Another learner with the state of one, through the CPU's memory as a checkpoint does."""
    fresh = Learner(learner.config, setup.device)
    fresh.model.load_state_dict({k: v.cpu() for k, v in learner.model.state_dict().items()})
    fresh.optimizer.load_state_dict(learner.optimizer.state_dict())
    return fresh


def step(setup: Setup) -> Iterator[Row]:
    """A training step of `paper`, beside the plain formulas."""
    preset, crop = ("demo", 16) if setup.is_quick else ("paper", 128)
    if setup.is_pretend:
        yield _counted_step(preset, crop)
        return
    for precision in FORMATS:
        for num in (1,) if setup.is_quick else (1, 4, 16, 32):
            learner = learner_of(preset, setup, precision)
            batch = on_device(batch_of(num, crop), setup)
            work = partial(learner.step, batch, 10**5)
            spent = setup.seconds(work)
            row = {"format": precision, "batch": num, "ms": 1e3 * spent, "waits": setup.waits(work)}
            if num <= 4 and precision != "tf32":
                row["ratio"] = setup.seconds(_plain_step(setup, batch), 2) / spent
            yield row


def _plain_step(setup: Setup, batch: Batch) -> Callable[[], None]:
    """In float32, which all of its operators know."""
    model: Any = network("baseline").to(setup.device)
    optimizer = torch.optim.Adam(model.parameters())

    def work() -> None:
        optimizer.zero_grad()
        with computing_in("float32", setup.device):
            sr = reference.train_forward(model, batch.lr, batch.lr_center, batch.ref)
        charbonnier(sr.float(), batch.hr, 1e-3).backward()
        optimizer.step()

    return work


@needs_values
def variants(setup: Setup) -> Iterator[Row]:
    """What each of the GPU's own sizes is worth: a step with the CPU's in its place. And what a
    recorded or compiled step is."""
    preset, num, crop = ("demo", 1, 16) if setup.is_quick else ("paper", 4, 128)
    own = tuning(setup.device)
    names = ("transfer_cells", "warp_channels", "soft_batched", "deform_operator", "fused_adam")
    for name in ("all as they are", *names):
        changed = own if name not in names else replace(own, **{name: getattr(CPU, name)})
        with mock.patch.dict(TUNINGS, {setup.device.type: changed}):
            learner = learner_of(preset, setup)
            batch = on_device(batch_of(num, crop), setup)
            spent = setup.seconds(partial(learner.step, batch, 10**5))
        yield {"without": name, "ms": 1e3 * spent}
    if setup.device.type == "cuda":
        for option in ("cuda_graph", "compile"):
            learner = learner_of(preset, setup, **{option: True})
            work = partial(learner.step, batch, 10**5)
            for _ in range(WARM_UP_STEPS):
                work()
            yield {"with": option, "ms": 1e3 * setup.seconds(work)}


def matching(setup: Setup) -> Iterator[Row]:
    """The search: in blocks, and by the kernel where there is one."""
    for rows, cols in ((16, 32),) if setup.is_quick else ((224, 448), (640, 896)):
        row: Row = {"queries": rows * cols, "keys": rows * cols // 4}
        if setup.is_pretend:
            with pretending() as gpu:
                sides = [torch.empty(row[name], 144).to("cuda") for name in ("queries", "keys")]
                gpu.reset()
                plain_search(*sides)
            yield row | {"launches": gpu.counts.num_launches, "waits": gpu.counts.num_syncs}
            continue
        feat = setup.random(1, 16, rows, cols)
        query = unit_patches(feat)[0]
        key = unit_patches(feat[:, :, : rows // 2, : cols // 2] + 0.1)[0].contiguous()
        ways = {"blocks": block_search, "chosen": plain_search}
        found = {name: way(query, key) for name, way in ways.items()}
        for name, way in ways.items():
            row[f"{name}_ms"] = 1e3 * setup.seconds(partial(way, query, key), 3)
        score = (found["blocks"].score - found["chosen"].score).abs().max()
        share = (found["blocks"].key_index == found["chosen"].key_index).float().mean()
        row["floor_ms"] = 1e3 * _seconds_of_products(setup, query, key)
        yield row | {"same_index": float(share), "passes": bool(score < 1e-5)}


def _seconds_of_products(setup: Setup, query: Tensor, key: Tensor) -> float:
    """What the search's products alone take, in the format that keeps float32's choices."""
    strip = query[: tuning(setup.device).search_queries]
    with computing_in("float32", setup.device):
        return setup.seconds(lambda: strip @ key.T, 3) * len(query) / len(strip)


def picture(setup: Setup) -> Iterator[Row]:
    """Whole images; the second has the first one's plan and bits."""
    sizes = [(32, 64)] if setup.is_quick else [(448, 896), (1280, 1792), (3024, 4032)]
    preset = "demo" if setup.is_quick else "paper"
    for size in sizes:
        if setup.is_pretend:
            with pretending() as gpu:
                model = place_on(SDDuSR(model_config(preset)).eval().requires_grad_(False),
                                 torch.device("cuda"))  # fmt: skip
                for _ in range(2):
                    gpu.reset()
                    image_maker(model, size, "bfloat16")()
            yield {"size": size, "launches": gpu.counts.num_launches,
                   "waits": gpu.counts.num_syncs, "nchw": gpu.counts.nchw.total()}  # fmt: skip
            continue
        model = place_on(network(preset).eval().requires_grad_(False), setup.device)
        exact = image_maker(model, size, "float32")().sr.astype(np.float64)
        work = image_maker(model, size, "bfloat16")
        first, second = work(), work()
        error = ((first.sr - exact) ** 2).mean()
        psnr = float("inf") if error == 0 else 10 * np.log10(255**2 / error)
        same = first.plan == second.plan and bool((first.sr == second.sr).all())
        row = {"size": size, "seconds": setup.seconds(work, 2), "psnr_to_float32": psnr,
               "same_twice": same, "passes": psnr > 50 and same}  # fmt: skip
        if size == sizes[0]:
            row["ratio"] = _plain_image_seconds(setup, size) / row["seconds"]
        if size == sizes[-1] and setup.device.type == "cuda":
            row |= _within(image_maker(model, size, "bfloat16", MEMORY_BYTES))
        yield row


def _plain_image_seconds(setup: Setup, size: tuple[int, int]) -> float:
    """The plain formulas' time for the same image."""
    model = network("baseline").eval().requires_grad_(False).to(setup.device)
    lr = textured(*size)[None].to(setup.device)
    ref = textured(size[0] // 2 * 2, size[1] // 2 * 2, 1)[None].to(setup.device)
    center = F.avg_pool2d(ref, 2)
    with torch.inference_mode(), computing_in("float32", setup.device):
        return setup.seconds(partial(reference.super_resolve, model, lr, center, ref), 2)


def _within(work: Callable[[], Any]) -> Row:
    """What an image takes of the card that may take a limited part of it."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    work()
    peak = torch.cuda.max_memory_reserved()
    return {"limit_mb": MEMORY_BYTES // 10**6, "peak_mb": peak // 10**6,
            "passes": peak <= MEMORY_BYTES}  # fmt: skip


@needs_values
def curve(setup: Setup) -> Iterator[Row]:
    """The loss after some steps, in each format: formats differ less than seeds."""
    num, size, crop = (2, 1, 16) if setup.is_quick else (200, 4, 32)
    for precision in FORMATS:
        for seed in (0, 1):
            learner, losses = learner_of("demo", setup, precision, seed=seed), []
            for index in range(num):
                batch = on_device(batch_of(size, crop, 1000 * seed + 10 * index), setup)
                losses.append(learner.step(batch, index)["reconstruction"])
            last = torch.stack(losses[-20:]).mean().item()
            yield {"format": precision, "seed": seed, "steps": num, "loss": last}


def _counted_step(preset: str, crop: int) -> Row:
    from tests.pretend_gpu import pretend_step

    with pretend_step() as gpu:
        learner = Learner(config_of(preset, "bfloat16"), torch.device("cpu"))
        batch = batch_of(4, crop)
        for index in range(2):
            gpu.reset()
            learner.step(batch, 10**5 + index)
    return {"launches": gpu.counts.num_launches, "waits": gpu.counts.num_syncs}


PARTS: dict[str, Callable[[Setup], Iterator[Row]]] = {
    "ceilings": ceilings,
    "parity": parity,
    "determinism": determinism,
    "step": step,
    "variants": variants,
    "matching": matching,
    "picture": picture,
    "curve": curve,
    **_gpu_run.PARTS,
}
