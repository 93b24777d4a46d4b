import torch

from sddusr.model.matching import mask
from sddusr.model.matching.mask import MaskGenerator, gumbel_noise


def test_sampled_mask_is_hard_and_its_gradient_is_the_soft_one():
    torch.manual_seed(0)
    generator = MaskGenerator(16)
    features = torch.randn(2, 16, 6, 5)
    noise = gumbel_noise(torch.tensor([3, 4]), 6, 5)
    mask = generator.sample(features, noise)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    soft = torch.softmax(generator.log_probs(features) + noise, dim=1)[:, 1:]
    assert torch.equal(mask.bool(), soft > 0.5)
    ours = torch.autograd.grad(mask.sum(), list(generator.parameters()), retain_graph=True)
    truth = torch.autograd.grad(soft.sum(), list(generator.parameters()))
    torch.testing.assert_close(ours, truth)


def test_without_noise_the_sample_is_the_decision_of_inference():
    generator = MaskGenerator(16)
    features = torch.randn(1, 16, 9, 9)
    sampled = generator.sample(features, torch.zeros(1, 2, 9, 9))
    assert torch.equal(sampled.bool(), generator.keep(features))


def test_noise_belongs_to_the_sample_not_to_its_place_in_the_batch():
    pair = gumbel_noise(torch.tensor([7, 8]), 4, 4)
    torch.testing.assert_close(pair[1:], gumbel_noise(torch.tensor([8]), 4, 4))


def test_noise_is_standard_gumbel():
    noise = gumbel_noise(torch.arange(8), 100, 100)
    euler_mascheroni, variance = 0.5772, torch.pi**2 / 6
    assert abs(noise.mean() - euler_mascheroni) < 0.01
    assert abs(noise.var() - variance) < 0.03


def test_every_cell_is_kept_as_often_as_its_probability_says():
    generator = MaskGenerator(16)
    features = torch.randn(1, 16, 1, 1).expand(1, 16, 200, 200)
    kept = generator.sample(features, gumbel_noise(torch.tensor([0]), 200, 200)).mean()
    assert abs(kept - generator.log_probs(features)[0, 1, 0, 0].exp()) < 0.01


def test_decisions_in_strips_are_those_of_the_whole_frame(monkeypatch):
    torch.manual_seed(0)
    generator = MaskGenerator(16).double()
    features = torch.randn(2, 16, 11, 9).double()
    drop, keep = generator.log_probs(features).chunk(2, dim=1)
    generator.decide[-1].bias.data[0] -= (drop - keep).median().detach()
    drop, keep = generator.log_probs(features).chunk(2, dim=1)
    monkeypatch.setattr(mask, "STRIP_CELLS", 4)
    assert torch.equal(generator.keep(features), keep >= drop)
    assert 0.2 < (keep >= drop).double().mean() < 0.8
