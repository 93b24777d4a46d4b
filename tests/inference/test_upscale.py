"""Whole pictures: any size, any box, and nothing outside the picture changes it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sddusr.config import DEMO, DetailConfig
from sddusr.evaluation.metrics import as_protocol
from sddusr.geometry.box import Box, align_ref, crop, to_lr
from sddusr.inference import bicubic, regions, sample, super_resolve, to_8bit, to_tensor
from sddusr.inference.memory import Plan
from sddusr.model.matching.transfer import CELL
from sddusr.model.sddusr import SDDuSR
from tests.conftest import textured
from tests.tiny import TINY
from tests.tunings import tuned

PLAIN = replace(DEMO.model, detail=DetailConfig(enabled=False))
"""The detail skip has tests of its own."""


@pytest.fixture(scope="module")
def model() -> SDDuSR:
    """A narrow network whose output depends on all of its inputs."""
    torch.manual_seed(0)
    return SDDuSR(replace(PLAIN, image_skip=False)).eval()


@pytest.fixture(scope="module")
def strong_model() -> SDDuSR:
    """One in which every layer, gate, mask and offset matters for the result."""
    torch.manual_seed(0)
    model = SDDuSR(TINY)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, a=0.2)
    nn.init.normal_(model.alignment.offset_tail.weight, std=0.02)
    picture = to_tensor(textured(64, 64, seed=0))[None]
    generator = model.matching.mask_generator
    drop, keep = generator.log_probs(model.matching.features(picture)).detach().chunk(2, dim=1)
    generator.decide[-1].bias.data[0] -= (drop - keep).median()
    last, output = (
        model.head[-1],
        model.eval()(picture, picture, F.interpolate(picture, (128, 128))),
    )
    last.weight.data *= 0.3 / output.sr.std().item()
    return model


def untiled(model: SDDuSR, lr: np.ndarray, ref: np.ndarray, box: Box) -> np.ndarray:
    """The model's own forward pass, on the whole picture."""
    aligned = align_ref(ref, box)
    height, width = lr.shape[:2]
    center = crop(lr, to_lr(aligned.box))
    wide, center, tele = (to_tensor(picture)[None] for picture in (lr, center, aligned.ref))
    with torch.inference_mode():
        sr = model(F.pad(wide, (0, width % 2, 0, height % 2), mode="replicate"), center, tele).sr
    return sr[0, :, : 2 * height, : 2 * width].permute(1, 2, 0).numpy()


def pair(height: int, width: int, box: Box, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return textured(height, width, seed), textured(box.height, box.width, seed + 1)


even = st.integers(8, 40).map(lambda n: 2 * n)


@settings(max_examples=25)
@given(
    size=st.tuples(st.integers(24, 90), st.integers(24, 90)),
    start=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    tile_px=even,
    center_px=even,
    alignment_side=st.integers(2, 30).map(lambda n: CELL * n),
    kept_maps=st.sampled_from([0, 1, 2]),
    seed=st.integers(0, 99),
)
def test_tiled_output_equals_untiled_for_any_size(
    strong_model, size, start, tile_px, center_px, alignment_side, kept_maps, seed
):
    box = Box(start[0], start[0] + size[0], start[1], start[1] + size[1])
    lr, ref = pair(*size, box, seed)
    whole = untiled(strong_model, lr, ref, box)
    plan = Plan(max(size) + 1, tile_px, center_px, torch.float32, kept_maps)
    with tuned(alignment_side=alignment_side):
        tiled = super_resolve(strong_model, lr, ref, box, plan=plan)
    assert np.abs(tiled.sr - whole).max() < 1e-4
    assert whole.std() > 0.1


@pytest.mark.parametrize(("kept_maps", "times"), [(0, 4 + 4), (1, 4), (2, 4)])
def test_a_kept_wide_map_is_made_once(strong_model, kept_maps, times):
    """In four tiles to pool over; else again in four to make the picture."""
    box = Box(8, 104, 4, 116)
    lr, ref = pair(64, 64, box, 0)
    made: list[torch.Size] = []
    first = strong_model.fusion.widest.body[0]
    hook = first.register_forward_hook(lambda _, inputs, output: made.append(output.shape))
    plan = Plan(64, 32, 32, torch.float32, kept_maps)
    super_resolve(strong_model, lr, ref, box, plan=plan)
    hook.remove()
    assert len(made) == times


def test_without_held_pools_tiles_would_differ(strong_model, monkeypatch):
    box = Box(10, 100, 6, 90)
    lr, ref = pair(64, 60, box, 0)
    whole = untiled(strong_model, lr, ref, box)
    monkeypatch.setattr(regions.RunningPool, "values", lambda *_: {})
    made = super_resolve(strong_model, lr, ref, box, plan=Plan(64, 32, 32, torch.float32))
    assert np.abs(made.sr - whole).max() > 1e-2
    assert 0.2 < made.matches.query_mask.mean() < 0.8


@pytest.fixture
def small_sample(monkeypatch):
    monkeypatch.setattr(sample, "GRID", 3)
    monkeypatch.setattr(sample, "SIDE", 20)
    monkeypatch.setattr(sample, "MARGIN", 6)


@pytest.mark.usefixtures("small_sample")
def test_what_is_sampled_does_not_depend_on_regions_and_tiles(strong_model):
    box = Box(10, 200, 6, 150)
    lr, ref = pair(121, 98, box, 0)
    first, *others = (
        super_resolve(strong_model, lr, ref, box, plan=Plan(*sides, torch.float32)).sr
        for sides in [(64, 32, 32), (48, 64, 200), (100, 16, 48), (32, 98, 16)]
    )
    for other in others:
        assert np.abs(other - first).max() < 1e-4
    whole = untiled(strong_model, lr, ref, box)
    near = np.abs(first - whole).mean()
    assert 1e-4 < near < 0.2 * np.abs(whole - bicubic(lr)).mean()


def test_sample_boxes_spread_over_the_frame():
    frame = Box(0, 1000, 0, 1500)
    boxes = sample.boxes(frame)
    assert len({*boxes}) == sample.GRID**2
    margin = sample.MARGIN
    assert min(box.y0 for box in boxes) == min(box.x0 for box in boxes) == margin
    assert max(box.y1 for box in boxes) == 1000 - margin
    assert max(box.x1 for box in boxes) == 1500 - margin
    assert all(edge % 2 == 0 for box in boxes for edge in box)


def test_a_bank_in_half_precision_stays_near(strong_model):
    box = Box(10, 100, 6, 90)
    lr, ref = pair(64, 60, box, 0)
    exact, half = (
        super_resolve(strong_model, lr, ref, box, plan=Plan(64, 32, 32, dtype)).sr
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert 0 < np.abs(exact - half).max() < 0.05


def test_sixteen_bits_go_in_and_come_out(model):
    lr, ref, box = noise(40, 48), noise(40, 48, seed=1), Box(20, 60, 24, 72)
    from_bytes = super_resolve(model, lr, ref, box).sr
    wide = [picture.astype(np.uint16) * 257 for picture in (lr, ref)]
    deep = super_resolve(model, *wide, box, dtype=np.uint16).sr
    assert deep.dtype == np.uint16
    assert deep / 65535 == pytest.approx(from_bytes.clip(0, 1), abs=1e-5)
    small = super_resolve(model, lr, ref, box, dtype=np.uint8).sr
    assert np.array_equal(small, to_8bit(from_bytes))


def test_a_wild_flow_cuts_the_alignment_smaller_and_changes_nothing(strong_model, monkeypatch):
    box = Box(8, 104, 4, 116)
    lr, ref = pair(60, 64, box, 0)
    bias = strong_model.alignment.spynet.levels[-1][-1].bias
    monkeypatch.setattr(bias, "data", bias.data + 12)  # 24 px on the 2x grid, and the offsets
    whole = untiled(strong_model, lr, ref, box)
    windows: list[int] = []
    align = strong_model.alignment.align
    monkeypatch.setattr(
        strong_model.alignment,
        "align",
        lambda flow, *f: (windows.append(flow.numel()), align(flow, *f))[1],
    )
    tiled = super_resolve(strong_model, lr, ref, box, plan=Plan(64, 32, 24, torch.float32))
    assert np.abs(tiled.sr - whole).max() < 1e-4
    assert len(windows) > 4


@pytest.mark.parametrize(
    ("region_px", "tile_px", "kept_maps", "times"),
    [(48, 8, 2, 70), (48, 8, 1, 70), (48, 8, 0, 40), (24, 8, 0, 15), (48, 48, 1, 5)],
)
@pytest.mark.usefixtures("small_sample")
def test_progress_rises_to_one(model, region_px, tile_px, kept_maps, times):
    """However the picture is cut, and with each tile."""
    lr, ref, box = noise(40, 48), noise(40, 48, seed=1), Box(20, 60, 24, 72)
    told: list[float] = []
    plan = Plan(region_px, tile_px, 16, torch.float32, kept_maps)
    super_resolve(model, lr, ref, box, plan=plan, progress=told.append)
    assert told == sorted(told)
    assert len(told) > times
    assert told[-1] == pytest.approx(1)


def test_a_match_names_the_cell_that_was_taken():
    """Where the wide picture is its own centre, each cell finds itself."""
    lr = textured(48, 48, seed=3)
    model = SDDuSR(replace(PLAIN, mask=replace(PLAIN.mask, enabled=False))).eval()
    _, matches, box, *_ = super_resolve(model, lr, textured(96, 96, seed=3), Box(0, 96, 0, 96))
    assert box == Box(0, 96, 0, 96)
    assert matches.key_shape == (24, 24)
    assert matches.query_mask is None
    assert (matches.key_index.ravel() == np.arange(576)).mean() > 0.99
    assert matches.confidence == pytest.approx(1, abs=1e-4)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((40, 48), Box(20, 60, 24, 72)),
        ((41, 47), Box(21, 59, 26, 71)),
        ((39, 48), Box(0, 77, 1, 90)),
        ((40, 45), Box(43, 80, 41, 90)),
    ],
)
def test_any_size_and_any_box_give_twice_the_picture(model, size, box):
    lr, ref = noise(*size), noise(box.height, box.width, seed=1)
    sr, matches, *_ = super_resolve(model, lr, ref, box)
    assert sr.shape == (2 * size[0], 2 * size[1], 3)
    assert np.isfinite(sr).all()
    assert matches.confidence.shape == ((size[0] + 1) // 2, (size[1] + 1) // 2)
    assert matches.key_index.max() < np.prod(matches.key_shape)


def test_an_even_picture_and_a_snapped_box_go_through_untouched(model):
    lr, ref, box = noise(40, 48), noise(40, 48, seed=1), Box(20, 60, 24, 72)
    with torch.inference_mode():
        center = lr[10:30, 12:36]
        expected = model(*(to_tensor(picture)[None] for picture in (lr, center, ref))).sr
    sr = super_resolve(model, lr, ref, box).sr
    assert sr == pytest.approx(expected[0].permute(1, 2, 0).numpy(), abs=1e-6)


def test_ref_is_trimmed_with_the_box(model):
    lr, ref = noise(40, 48), noise(45, 50, seed=1)
    loose = super_resolve(model, lr, ref, Box(17, 62, 23, 73)).sr
    tight = super_resolve(model, lr, ref[3:43, 1:49], Box(20, 60, 24, 72)).sr
    assert np.array_equal(loose, tight)


def test_the_model_keeps_its_mode(model):
    lr, ref, box = noise(24, 24), noise(24, 24, seed=1), Box(12, 36, 12, 36)
    calm = super_resolve(model, lr, ref, box).sr
    model.train()
    assert np.array_equal(super_resolve(model, lr, ref, box).sr, calm)
    assert model.training
    model.eval()


def test_bfloat16_stays_near_float32(model):
    lr, ref, box = noise(24, 24), noise(24, 24, seed=1), Box(12, 36, 12, 36)
    exact, rough = (
        super_resolve(model, lr, ref, box, precision).sr for precision in ("float32", "bfloat16")
    )
    assert 0 < np.abs(exact - rough).mean() < 0.05


@pytest.mark.parametrize("box", [Box(0, 40, 0, 200), Box(20, 58, 24, 72)])
def test_a_box_that_does_not_fit_is_refused(model, box):
    with pytest.raises(ValueError, match=r"centre box|Ref is 40x48"):
        super_resolve(model, noise(40, 48), noise(40, 48), box)


def test_bicubic_keeps_a_ramp_where_it_is():
    ramp = np.arange(0, 240, 10, dtype=np.uint8)
    lr = np.broadcast_to(ramp[:, None, None], (24, 20, 3))
    rows = (np.arange(48) + 0.5) / 2 - 0.5
    assert 255 * bicubic(lr)[6:-6, 0, 0] == pytest.approx(10 * rows[6:-6], abs=1e-3)


def test_bicubic_is_neither_clamped_nor_rounded():
    step = np.zeros((16, 16, 3), np.uint8)
    step[8:] = 255
    enlarged = bicubic(step)
    assert enlarged.min() < 0
    assert enlarged.max() > 1


def test_an_untrained_network_with_image_skip_is_bicubic():
    lr, ref, box = noise(24, 26), noise(24, 24, seed=1), Box(12, 36, 12, 36)
    sr = super_resolve(SDDuSR(PLAIN), lr, ref, box).sr
    assert sr == pytest.approx(bicubic(lr), abs=1e-6)


def test_saved_pixels_are_those_that_png8_scores():
    picture = np.random.default_rng(0).normal(0.5, 0.4, size=(32, 32, 3)).astype(np.float32)
    scored = as_protocol(torch.from_numpy(picture).permute(2, 0, 1), "png8")
    assert np.array_equal(to_8bit(picture), (scored.permute(1, 2, 0).numpy() * 255).round())
