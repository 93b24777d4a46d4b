"""The four losses of Eq. 12."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sddusr.config import LossConfig
from sddusr.imaging.resize import bicubic_up
from sddusr.model.filters import box_mean
from sddusr.model.pretrained_weights import Normalize, load_state
from sddusr.training.distributed import mean_over_batch
from sddusr.types import Batch, DetailOutput, Output

CONV5_4 = 34
"""Position of VGG19's last convolution in torchvision's `vgg19().features`."""


def charbonnier(
    sr: Float[Tensor, "b 3 h w"], hr: Float[Tensor, "b 3 h w"], eps: float
) -> Float[Tensor, ""]:
    """Mean of sqrt(d² + ε²) (Lai et al., 2017)."""
    return torch.sqrt((sr - hr).square() + eps**2).mean()


def mask_loss(
    mask: Float[Tensor, "b 1 hq wq"], label: Float[Tensor, "b 1 hq wq"]
) -> Float[Tensor, ""]:
    """Mean squared error of the hard mask against the detail label."""
    return F.mse_loss(mask, label)


class PerceptualLoss(nn.Module):
    """L1 distance of VGG19's conv5_4 features, before the ReLU; the VGG does not learn.

    Raises:
        FileNotFoundError, ValueError: its weights are missing or no VGG19's.
    """

    def __init__(self, vgg_weights: str) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.vgg = load_vgg19(vgg_weights).requires_grad_(False).eval()

    def forward(
        self, sr: Float[Tensor, "b 3 h w"], hr: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, ""]:
        with torch.no_grad():
            wanted = self.vgg(self.normalize(hr))
        return F.l1_loss(self.vgg(self.normalize(sr)).float(), wanted.float())


def load_vgg19(source: str) -> nn.Sequential:
    """VGG19 up to conv5_4 with ImageNet weights, by name (`imagenet`) or from a path."""
    from torchvision.models import VGG19_Weights, vgg19

    state = load_state(
        source,
        name="imagenet",
        what="VGG19",
        flag="--losses.vgg-weights",
        fetch=lambda: VGG19_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True),
    )
    features = nn.Sequential(*list(vgg19(weights=None).features.children())[: CONV5_4 + 1])
    own = {name: state.get(f"features.{name}") for name in features.state_dict()}
    if absent := [name for name, value in own.items() if value is None]:
        raise ValueError(f"VGG19 weights {source} hold no features.{absent[0]}, need vgg19's")
    features.load_state_dict(own)
    return features


def generator_adversarial(
    real: Float[Tensor, "b 1"], fake: Float[Tensor, "b 1"]
) -> Float[Tensor, ""]:
    """Relativistic average loss of the network: fakes should look more real than the real ones."""
    return discriminator_adversarial(real=fake, fake=real)


def discriminator_adversarial(
    real: Float[Tensor, "b 1"], fake: Float[Tensor, "b 1"]
) -> Float[Tensor, ""]:
    """Relativistic average loss of the discriminator (Jolicoeur-Martineau, 2018)."""
    real_logit, fake_logit = real - mean_over_batch(fake), fake - mean_over_batch(real)
    return 0.5 * (F.softplus(-real_logit).mean() + F.softplus(fake_logit).mean())


def weights_of_terms(config: LossConfig) -> dict[str, float]:
    """λ of each term that the stage uses."""
    weights = {
        "reconstruction": 1.0,
        "mask": config.mask_weight,
        "trust": config.trust_weight,
    }
    if config.stage == "full":
        weights |= {
            "perceptual": config.perceptual_weight,
            "adversarial": config.adversarial_weight,
        }
    return weights


def total_loss(terms: Mapping[str, Tensor], config: LossConfig) -> Float[Tensor, ""]:
    """Eq. 12: the weighted sum of the terms there are."""
    weights = weights_of_terms(config)
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def pixel_terms(output: Output, batch: Batch, config: LossConfig) -> dict[str, Tensor]:
    """Reconstruction loss; mask and trust loss where the network has a mask and a detail skip."""
    terms = {"reconstruction": charbonnier(output.sr, batch.hr, config.charbonnier_eps)}
    if output.query_mask is not None:
        terms["mask"] = mask_loss(output.query_mask, batch.mask_label)
    if output.detail is not None and config.trust_weight > 0:
        terms["trust"] = trust_loss(output.detail, batch)
    return terms


WANTED_PX = 5
"""Side of the windows in which the best share of the detail is computed."""


def trust_loss(output: DetailOutput, batch: Batch) -> Float[Tensor, ""]:
    """log(1 + excess / floor) of each sample, inside and outside the box, weighted by their areas.

    The best share of the detail follows from HR: want = ⟨d, HR − bicubic⟩ / ⟨d, d⟩ in small
    windows, cut to 0..1. What the trust leaves beyond that is the excess square error; what even
    the best share leaves is the floor. With a plain square error the trust would rest at 0.9, 3 dB
    short where Ref is exact; the logarithm measures decibels. Samples without Ref count
    nothing.
    """
    detail = output.detail.float()
    with torch.no_grad():
        missing = batch.hr - bicubic_up(batch.lr)
        power = (detail * detail).sum(1, keepdim=True)
        shared = box_mean((detail * missing).sum(1, keepdim=True), WANTED_PX)
        wanted = (shared / (box_mean(power, WANTED_PX) + 1e-6)).clamp(0, 1)
        floor = (missing - wanted * detail).square().sum(1, keepdim=True)
        inside = output.inside.float()
    excess = power * (output.trust - wanted).square()
    total = torch.zeros_like(excess[:, 0, 0, 0])
    for region in (inside, 1 - inside):
        left, best = ((region * x).flatten(1).sum(1) for x in (excess, floor))
        area = region.flatten(1).mean(1)
        total = total + area * torch.log1p(left / (best + 1e-3))
    return (total * batch.has_ref.to(total.dtype)).mean()
