"""Whole pictures: any size, any box, and nothing outside the picture changes it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sddusr.config import DEMO
from sddusr.inference import bicubic, super_resolve, to_8bit, to_tensor
from sddusr.metrics import as_protocol
from sddusr.model.sddusr import SDDuSR
from sddusr.types import Box


@pytest.fixture(scope="module")
def model() -> SDDuSR:
    """A narrow network whose output depends on all of its inputs."""
    torch.manual_seed(0)
    return SDDuSR(replace(DEMO.model, image_skip=False)).eval()


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
    sr, output = super_resolve(model, lr, ref, box)
    assert sr.shape == (2 * size[0], 2 * size[1], 3)
    assert np.isfinite(sr).all()
    assert output.confidence.shape[2:] == ((size[0] + 1) // 2, (size[1] + 1) // 2)


def test_an_even_picture_and_a_snapped_box_go_through_untouched(model):
    lr, ref, box = noise(40, 48), noise(40, 48, seed=1), Box(20, 60, 24, 72)
    with torch.inference_mode():
        center = lr[10:30, 12:36]
        expected = model(*(to_tensor(picture)[None] for picture in (lr, center, ref))).sr
    sr = super_resolve(model, lr, ref, box).sr
    assert np.array_equal(sr, expected[0].permute(1, 2, 0).numpy())


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
    sr = super_resolve(SDDuSR(DEMO.model), lr, ref, box).sr
    assert sr == pytest.approx(bicubic(lr), abs=1e-6)


def test_saved_pixels_are_those_that_png8_scores():
    picture = np.random.default_rng(0).normal(0.5, 0.4, size=(32, 32, 3)).astype(np.float32)
    scored = as_protocol(torch.from_numpy(picture).permute(2, 0, 1), "png8")
    assert np.array_equal(to_8bit(picture), (scored.permute(1, 2, 0).numpy() * 255).round())
