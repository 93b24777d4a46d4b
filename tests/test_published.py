"""What the paper publishes, pinned: its numbers, and terms that silently could be others."""

import sys

import pytest
import torch

from sddusr.cli import command_line
from sddusr.config import PAPER, DictionaryConfig, LossConfig, flatten, to_dict
from sddusr.data.stream import BatchStream
from sddusr.evaluation.complexity import build_untrained, fixed_masks, measure_latencies, table_4
from sddusr.evaluation.metrics import psnr, score, ssim
from sddusr.geometry.box import Box
from sddusr.inference import super_resolve
from sddusr.model.dictionary import TokenDictionary
from sddusr.model.matching.features import MatchingFeatures
from sddusr.model.pretrained_weights import IMAGENET_MEAN, IMAGENET_STD
from sddusr.training.learner import Learner
from sddusr.training.losses import PerceptualLoss, mask_loss, pixel_terms
from sddusr.training.optim import learning_rate
from tests.evaluation.test_metrics import reference_ssim
from tests.training.test_learner import CONFIG, CPU, a_batch

PUBLISHED = {
    "data.crop_px": 128,
    "data.shift_px": (32, 96),
    "data.augment": True,
    "data.mask_quantile": 0.5,
    "data.mask_scope": "crop",
    "train.num_steps": 250_000,
    "train.batch_size": 4,
    "train.ema_decay": 0.0,
    "train.init_from": "",
    "optim.lr": 1e-4,
    "optim.min_lr": 1e-6,
    "optim.warmup_steps": 0,
    "optim.flow_lr_scale": 1.0,
    "optim.offset_lr_scale": 1.0,
    "optim.align_from_step": 0,
    "optim.max_grad_norm": 0.0,
    "losses.stage": "rec",
    "losses.mask_weight": 1e-3,
    "losses.perceptual_weight": 1e-3,
    "losses.adversarial_weight": 1e-4,
    "losses.charbonnier_eps": 1e-3,
    "model.dim": 64,
    "model.image_skip": False,
    "model.matching.dim": 16,
    "model.matching.vgg_dims": (64, 128),
    "model.matching.temperature": 1.0,
    "model.mask.enabled": True,
    "model.dictionary.enabled": True,
    "model.dictionary.num_tokens": 128,
    "model.dictionary.attention": "none",
}


@pytest.mark.parametrize("field", PUBLISHED)
def test_the_preset_paper_is_as_published(field):
    assert flatten(to_dict(PAPER))[field] == PUBLISHED[field]


def test_the_papers_rate_falls_as_a_cosine_from_first_to_last_step():
    rates = [learning_rate(step, 250_000, PAPER.optim) for step in (0, 125_000, 249_999)]
    assert rates == pytest.approx([1e-4, (1e-4 + 1e-6) / 2, 1e-6], rel=1e-3)


def test_the_mask_loss_wants_cells_of_detail_in_the_search():
    label = torch.tensor([[[[1.0, 1.0, 0.0]]]])
    assert mask_loss(label, label) == 0
    assert mask_loss(1 - label, label) == 1
    assert mask_loss(torch.tensor([[[[1.0, 0.0, 0.0]]]]), label) == pytest.approx(1 / 3)


def test_the_mask_term_of_a_step_is_against_the_batchs_own_label(tiny_shards):
    learner, batch = Learner(CONFIG, CPU), a_batch(tiny_shards)
    output = learner.model(batch.lr, batch.lr_center, batch.ref, batch.seeds)
    term = pixel_terms(output, batch, LossConfig())["mask"]
    torch.testing.assert_close(term, (output.query_mask - batch.mask_label).square().mean())


def test_the_perceptual_loss_is_l1_of_features_of_normalized_pictures(vgg19_file):
    loss = PerceptualLoss(vgg19_file)
    sr, hr = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    ours, wanted = (loss.vgg((picture - mean) / std) for picture in (sr, hr))
    torch.testing.assert_close(loss(sr, hr), (ours - wanted).abs().mean())


def test_matching_features_see_normalized_pictures():
    torch.manual_seed(0)
    features = MatchingFeatures(CONFIG.model.matching)
    picture = torch.rand(1, 3, 8, 8)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    literal = features.project(features.vgg((picture - mean) / std))
    torch.testing.assert_close(features(picture), literal)


def test_imagenets_mean_and_deviation_are_the_published_ones():
    assert IMAGENET_MEAN == (0.485, 0.456, 0.406)
    assert IMAGENET_STD == (0.229, 0.224, 0.225)


def test_a_steps_noise_comes_from_the_batchs_own_seeds(tiny_shards, monkeypatch):
    learner, batch = Learner(CONFIG, CPU), a_batch(tiny_shards)
    given = []
    network = learner.model.forward

    def remember(lr, lr_center, ref, seeds=None, *place):
        given.append(seeds)
        return network(lr, lr_center, ref, seeds, *place)

    monkeypatch.setattr(learner.model, "forward", remember)
    learner.step(batch, 0)
    assert given
    assert torch.equal(torch.cat(given), batch.seeds)
    with BatchStream(tiny_shards, CONFIG.data, seed=1, batch_size=4) as other:
        assert not torch.equal(next(other).seeds, batch.seeds)


def test_tokens_start_as_standard_normal_numbers():
    torch.manual_seed(0)
    dictionary = TokenDictionary(64, DictionaryConfig(num_tokens=128))
    for tokens in (dictionary.center_tokens, dictionary.ref_tokens):
        assert tokens.mean().item() == pytest.approx(0, abs=0.05)
        assert tokens.std().item() == pytest.approx(1, abs=0.05)
        assert (tokens.abs() > 2).float().mean().item() == pytest.approx(0.0455, abs=0.01)
        assert tokens.abs().max() > 3


BOX = Box(12, 40, 9, 51)


def test_ssim_of_the_regions_is_the_parents_under_kedusr_float_and_centred_under_png8():
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(3, 60, 70, generator=generator)
    sr = hr + torch.linspace(0, 0.3, 70) * torch.randn(3, 60, 70, generator=generator)
    windows = reference_ssim(sr, hr, full=True)[1].mean(axis=2)
    y0, y1, x0, x1 = BOX
    as_parent = windows[5:-5, 5:-5][y0:y1, x0:x1].mean()
    assert score(sr, hr, BOX, "kedusr-float").center_ssim == pytest.approx(as_parent, abs=1e-6)
    assert ssim(sr, hr, BOX).center == pytest.approx(windows[y0:y1, x0:x1].mean(), abs=1e-6)
    assert abs(as_parent - ssim(sr, hr, BOX).center) > 1e-3
    assert psnr(sr, hr, BOX).center == score(sr, hr, BOX, "kedusr-float").center_psnr


def test_an_untrained_network_is_timed_densely_and_at_the_papers_share():
    first, second = (build_untrained("demo") for _ in range(2))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])
    dense, sparse = measure_latencies(first, 32, 48)
    assert dense.kept == (1, 1, 1)
    assert sparse.kept.pairs == pytest.approx(222 / 319, abs=0.15)
    text = table_4(first, [dense, sparse], 32, 48)
    assert "searching 100.0% of the cells among 100.0% of the keys" in text
    assert f"searching {sparse.kept.queries:.1%} of the cells" in text


def test_fixed_masks_keep_the_share_that_is_asked_for():
    model = build_untrained("demo").eval()
    pixels = torch.randint(256, (64, 64, 3), dtype=torch.uint8).numpy()
    with fixed_masks(model, 0.25):
        matches = super_resolve(model, pixels, pixels, Box(32, 96, 32, 96)).matches
    assert matches.query_mask is not None
    assert float(matches.query_mask.mean()) == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("module", ["pipelines.train", "tune.search_tokens"])
def test_a_misspelt_preset_is_named_and_completion_works_in_both_commands(
    module, monkeypatch, capsys
):
    command = __import__(module, fromlist=["command"]).command
    monkeypatch.setattr(sys, "argv", ["command", "papr", "--data", "d"])
    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 2
    wanted = "error: no preset is named 'papr', need one of demo, compact, paper, baseline, sfm\n"
    assert capsys.readouterr().err == wanted
    monkeypatch.setattr(sys, "argv", ["command", "--tyro-print-completion", "bash"])
    monkeypatch.setattr(command_line, "log_lines", lambda: None)
    with pytest.raises(SystemExit) as ended:
        command()
    assert not ended.value.code
    assert "complete" in capsys.readouterr().out
