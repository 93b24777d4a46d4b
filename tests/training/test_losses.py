import pytest
import torch
from torch import nn

from sddusr.config import LossConfig, OptimConfig
from sddusr.training.adversarial import AdversarialLoss, Discriminator
from sddusr.training.losses import (
    PerceptualLoss,
    charbonnier,
    discriminator_adversarial,
    generator_adversarial,
    total_loss,
)


def test_charbonnier_is_eps_for_equal_pictures_and_l1_for_far_ones():
    picture = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(charbonnier(picture, picture, 1e-3), torch.tensor(1e-3))
    torch.testing.assert_close(
        charbonnier(picture, picture + 1, 1e-3), torch.tensor(1.0), atol=1e-6, rtol=0
    )


def test_relativistic_losses_are_the_papers_formulas():
    """-E[log D(r, f)] - E[log(1 - D(f, r))] with D(a, b) = sigmoid(a - E[b]), halved."""
    real, fake = torch.randn(5, 1, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    real_score = torch.sigmoid(real - fake.mean())
    fake_score = torch.sigmoid(fake - real.mean())
    truth = -(real_score.log().mean() + (1 - fake_score).log().mean()) / 2
    torch.testing.assert_close(
        discriminator_adversarial(real=real.float(), fake=fake.float()), truth.float()
    )
    truth = -((1 - real_score).log().mean() + fake_score.log().mean()) / 2
    torch.testing.assert_close(
        generator_adversarial(real=real.float(), fake=fake.float()), truth.float()
    )


def test_total_is_equation_12():
    terms = dict.fromkeys(("reconstruction", "mask", "perceptual", "adversarial"), torch.ones(()))
    full = total_loss(terms, LossConfig(stage="full"))
    torch.testing.assert_close(full, torch.tensor(1 + 1e-3 + 1e-3 + 1e-4))


def test_discriminator_learns_to_tell_noise_from_smooth_pictures():
    torch.manual_seed(0)
    adversary = AdversarialLoss(
        LossConfig(discriminator_dim=8), OptimConfig(lr=1e-3), torch.device("cpu")
    )
    real, fake = torch.rand(4, 3, 1, 1).expand(4, 3, 32, 32), torch.rand(4, 3, 32, 32)
    losses = []
    for _ in range(40):
        losses.append(adversary.learn(fake, real).item())
        adversary.optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_judging_leaves_the_discriminator_alone_and_reaches_the_picture():
    torch.manual_seed(0)
    adversary = AdversarialLoss(LossConfig(discriminator_dim=8), OptimConfig(), torch.device("cpu"))
    before = {k: v.clone() for k, v in adversary.discriminator.state_dict().items()}
    sr = torch.rand(2, 3, 32, 32, requires_grad=True)
    adversary.generator_loss(sr, torch.rand(2, 3, 32, 32)).backward()
    assert sr.grad is not None
    assert sr.grad.abs().sum() > 0
    assert all(p.grad is None for p in adversary.discriminator.parameters())
    torch.testing.assert_close(adversary.discriminator.state_dict(), before, rtol=0, atol=0)


def test_discriminator_takes_any_size_and_every_parameter_learns():
    discriminator = Discriminator(8)
    discriminator(torch.rand(2, 3, 48, 40)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in discriminator.parameters())


def test_perceptual_loss_is_the_distance_of_conv5_4_before_its_relu(vgg19_file):
    loss = PerceptualLoss(vgg19_file)
    last = loss.vgg[-1]
    assert isinstance(last, nn.Conv2d)
    assert len([layer for layer in loss.vgg if isinstance(layer, nn.Conv2d)]) == 16
    sr, hr = torch.rand(1, 3, 32, 32, requires_grad=True), torch.rand(1, 3, 32, 32)
    assert loss(hr, hr) == 0
    assert not any(p.requires_grad for p in loss.parameters())
    loss(sr, hr).backward()
    assert sr.grad is not None


def test_missing_vgg19_names_both_ways():
    with pytest.raises(FileNotFoundError, match=r"VGG19.*--losses.vgg-weights imagenet.*by name"):
        PerceptualLoss("/nowhere/vgg19.pth")


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Canary:
        def __reduce__(self):
            return (open, (str(tmp_path / "canary"), "w"))

    torch.save({"features.0.weight": Canary()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="no state dict"):
        PerceptualLoss(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "canary").exists()
