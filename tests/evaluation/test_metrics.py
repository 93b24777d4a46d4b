"""PSNR and SSIM against scikit-image, regions against their mixture, LPIPS against its weights."""

import math
from urllib.error import URLError

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchvision.models import AlexNet_Weights, alexnet

from sddusr.evaluation.bootstrap import paired_bootstrap
from sddusr.evaluation.metrics import (
    DEFAULT_PROTOCOLS,
    Lpips,
    as_protocol,
    psnr,
    score,
    ssim,
)
from sddusr.geometry.box import Box
from sddusr.model.tuning import CPU

SIZE = (CPU.ssim_rows + 33, 61)
BOX = Box(20, 50, 13, 44)


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """A picture on the 8-bit grid and a worse one that leaves 0..1."""
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(3, *SIZE, generator=generator).mul(255).round() / 255
    sr = hr + torch.linspace(0.02, 0.3, SIZE[1]) * torch.randn(hr.shape, generator=generator)
    return sr, hr


def hwc(picture: torch.Tensor) -> np.ndarray:
    return picture.double().permute(1, 2, 0).numpy()


def reference_ssim(sr: torch.Tensor, hr: torch.Tensor, **options: bool):
    return structural_similarity(
        hwc(sr),
        hwc(hr),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=2,
        data_range=1,
        **options,
    )


@pytest.mark.parametrize("protocol", DEFAULT_PROTOCOLS)
def test_scores_equal_scikit_images(pair, protocol):
    sr, hr = (as_protocol(picture, protocol) for picture in pair)
    scores = score(*pair, BOX, protocol)
    assert scores.full_psnr == pytest.approx(
        peak_signal_noise_ratio(hwc(hr), hwc(sr), data_range=1), abs=1e-6
    )
    assert scores.full_ssim == pytest.approx(reference_ssim(sr, hr), abs=1e-6)


def test_center_psnr_is_that_of_the_cut_out_box(pair):
    y0, y1, x0, x1 = BOX
    sr, hr = (hwc(picture)[y0:y1, x0:x1] for picture in pair)
    expected = peak_signal_noise_ratio(hr, sr, data_range=1)
    assert psnr(*pair, BOX).center == pytest.approx(expected, abs=1e-6)


def test_center_ssim_averages_the_windows_whose_middle_lies_in_the_box(pair):
    whole_map = reference_ssim(*pair, full=True)[1]
    y0, y1, x0, x1 = BOX
    assert ssim(*pair, BOX).center == pytest.approx(whole_map[y0:y1, x0:x1].mean(), abs=1e-6)


def test_full_is_the_mixture_of_center_and_corner(pair):
    decibels, similarity = psnr(*pair, BOX), ssim(*pair, BOX)
    squared = [10 ** (-value / 10) for value in decibels]
    share = BOX.height * BOX.width / math.prod(SIZE)
    assert squared[0] == pytest.approx(share * squared[1] + (1 - share) * squared[2], rel=1e-12)
    share = BOX.height * BOX.width / ((SIZE[0] - 10) * (SIZE[1] - 10))
    mixture = share * similarity.center + (1 - share) * similarity.corner
    assert similarity.full == pytest.approx(mixture, rel=1e-12)


def test_damage_in_the_corner_leaves_the_center_alone(pair):
    hr = pair[1]
    sr = hr.clone()
    sr[:, BOX.y1 + 5 :] = 0
    assert psnr(sr, hr, BOX).center == math.inf
    assert ssim(sr, hr, BOX).center == 1
    assert psnr(sr, hr, BOX).corner < 10


def test_protocols_differ_only_by_clamp_and_rounding(pair):
    sr, hr = pair
    raw, saved = (score(sr, hr, BOX, protocol) for protocol in DEFAULT_PROTOCOLS)
    assert saved.full_psnr > raw.full_psnr + 0.1  # what leaves 0..1 can only be wrong
    rounded = as_protocol(sr, "png8")
    again = score(rounded, hr, BOX, "kedusr-float")._replace(
        center_ssim=saved.center_ssim,
        corner_ssim=saved.corner_ssim,  # cut as the parent does
    )
    assert again == pytest.approx(tuple(saved), abs=1e-5)
    nudged = hr + 0.4 / 255
    assert score(nudged, hr, BOX, "png8").full_psnr == math.inf
    assert score(nudged, hr, BOX, "kedusr-float").full_psnr < 60


def test_y_is_the_luma_of_the_saved_picture_without_a_border(pair):
    y0, y1, x0, x1 = (edge - 2 for edge in BOX)
    planes = []
    for picture in pair:
        red, green, blue = np.rint(picture.clamp(0, 1).double().numpy() * 255) / 255
        planes.append((65.481 * red + 128.553 * green + 24.966 * blue + 16)[2:-2, 2:-2])
    sr, hr = planes
    scores = score(*pair, BOX, "y")
    for region, here in (("full", np.s_[:, :]), ("center", np.s_[y0:y1, x0:x1])):
        mse = np.square(sr[here] - hr[here]).mean()
        expected = 10 * math.log10(255**2 / mse)
        assert getattr(scores, f"{region}_psnr") == pytest.approx(expected, abs=1e-9)
    similarity = structural_similarity(
        sr,
        hr,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    assert scores.full_ssim == pytest.approx(similarity, abs=1e-6)


def test_y_sees_no_border_and_keeps_a_box_that_reaches_it(pair):
    hr = pair[1]
    sr = hr.clone()
    sr[:, :2], sr[:, -2:], sr[:, :, :2], sr[:, :, -2:] = 0, 0, 0, 0
    scores = score(sr, hr, Box(0, 30, 0, SIZE[1]), "y")
    assert scores == (math.inf, 1, math.inf, 1, math.inf, 1)
    assert score(sr, hr, BOX, "png8").full_psnr < 30


def test_equal_pictures_score_inf_and_one(pair):
    scores = score(pair[1], pair[1], BOX, "kedusr-float")
    assert scores == (math.inf, 1, math.inf, 1, math.inf, 1)


def test_an_empty_corner_is_nan_and_full_stays(pair):
    whole = Box(0, SIZE[0], 0, SIZE[1])
    regions = psnr(*pair, whole)
    assert math.isnan(regions.corner)
    assert regions.full == regions.center


@pytest.mark.parametrize(
    "box", [Box(0, SIZE[0] + 1, 0, 20), Box(-2, 20, 0, 20), Box(20, 20, 0, 20)]
)
def test_a_box_outside_the_picture_is_refused(pair, box):
    with pytest.raises(ValueError, match="centre box is"):
        psnr(*pair, box)


def test_other_sizes_are_refused(pair):
    with pytest.raises(ValueError, match="HR is"):
        psnr(pair[0][:, :-1], pair[1], BOX)
    with pytest.raises(ValueError, match="11x11"):
        ssim(pair[0][:, :10], pair[1][:, :10], Box(0, 4, 0, 4))


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        interval = paired_bootstrap(rng.normal(0.3, 1.0, size=50), seed=seed, num=500)
        hits += interval.low <= 0.3 <= interval.high
    assert 180 <= hits <= 198


def test_bootstrap_is_paired_seeded_and_narrows():
    rng = np.random.default_rng(1)
    pictures, gain = rng.normal(28, 4, size=55), rng.normal(0.1, 0.05, size=55)
    interval = paired_bootstrap((pictures + gain) - pictures, seed=3)
    assert interval == paired_bootstrap((pictures + gain) - pictures, seed=3)
    assert 0 < interval.low < interval.mean < interval.high < 0.2
    narrower = paired_bootstrap(gain, seed=3, level=0.5)
    assert narrower.high - narrower.low < interval.high - interval.low


@pytest.mark.parametrize("differences", [[], [0.1, math.inf], [math.nan]])
def test_bootstrap_refuses_what_has_no_mean(differences):
    with pytest.raises(ValueError, match="finite"):
        paired_bootstrap(np.array(differences, dtype=np.float64), seed=0)


def test_lpips_never_scores_without_weights(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise URLError("no internet")

    monkeypatch.setattr(type(AlexNet_Weights.IMAGENET1K_V1), "get_state_dict", offline)
    with pytest.raises(FileNotFoundError, match=r"give their path: --lpips-weights FILE"):
        Lpips("imagenet")
    with pytest.raises(FileNotFoundError, match=r"path, or --lpips-weights imagenet"):
        Lpips(str(tmp_path / "missing.pth"))


def test_lpips_refuses_another_networks_weights(tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "noise.pth").write_bytes(b"not a state dict")
    for name in ("other.pth", "noise.pth"):
        with pytest.raises(ValueError, match=r"no state dict|need a state dict|no dict of tensors"):
            Lpips(str(tmp_path / name))


def test_lpips_uses_the_given_backbone(pair, tmp_path):
    torch.manual_seed(0)
    state = alexnet(weights=None).state_dict()
    torch.save(state, tmp_path / "alexnet.pth")
    distance = Lpips(str(tmp_path / "alexnet.pth"))
    loaded = {name.split(".", 1)[1]: value for name, value in distance.net.net.state_dict().items()}
    expected = {name[9:]: value for name, value in state.items() if name.startswith("features.")}
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in loaded)
    sr, hr = (picture[:, :96] for picture in pair)
    assert distance(hr, hr) == 0
    assert distance(hr + 0.4 / 255, hr) == 0  # a picture as saved, not as computed
    assert distance(sr, hr) > 0
