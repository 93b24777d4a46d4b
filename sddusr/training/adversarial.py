"""The discriminator of the full run."""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from sddusr.config import LossConfig, OptimConfig
from sddusr.model.tuning import place_on
from sddusr.training.distributed import data_parallel
from sddusr.training.losses import discriminator_adversarial, generator_adversarial
from sddusr.training.optim import make_optimizer

NUM_STAGES = 5
MAX_WIDENING = 8


class Discriminator(nn.Module):
    """Convolutions that halve the grid five times, then one logit for each picture.

    The paper names none; this is the usual VGG shape, with spectral norm in place of batch norm:
    its state depends on the weights alone, so ranks agree on it without talking.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        dims = [dim * min(2**stage, MAX_WIDENING) for stage in range(NUM_STAGES)]
        layers: list[nn.Module] = []
        for dim_in, dim_out in pairwise([3, *dims]):
            layers += [
                spectral_norm(nn.Conv2d(dim_in, dim_out, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(dim_out, dim_out, 4, stride=2, padding=1)),
                nn.LeakyReLU(0.2),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            spectral_norm(nn.Linear(dims[-1], dims[-1])),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Linear(dims[-1], 1)),
        )

    def forward(self, picture: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1"]:
        """A logit that grows with how real the picture looks; sides of 32 pixels or more."""
        return self.head(self.features(picture).mean(dim=(2, 3)))


class AdversarialLoss:
    """The discriminator, its optimizer and both sides of the game."""

    def __init__(
        self,
        config: LossConfig,
        optim: OptimConfig,
        device: torch.device,
        may_rebuild: bool = True,
    ) -> None:
        """
        Args:
            may_rebuild: see `distributed.data_parallel`.
        """
        self.discriminator = place_on(Discriminator(config.discriminator_dim), device)
        self.learner = data_parallel(self.discriminator, may_rebuild)
        self.optimizer = make_optimizer(self.discriminator.parameters(), optim)

    def generator_loss(self, sr: Float[Tensor, "b 3 h w"], hr: Float[Tensor, "b 3 h w"]) -> Tensor:
        """L_adv of the network; the discriminator stands still."""
        self.discriminator.eval().requires_grad_(False)
        with torch.no_grad():
            real = self.discriminator(hr)
        return generator_adversarial(real=real, fake=self.discriminator(sr))

    def learn(
        self, sr: Float[Tensor, "b 3 h w"], hr: Float[Tensor, "b 3 h w"], weight: float = 1.0
    ) -> Tensor:
        """The discriminator's own loss, and its gradients; `optimizer.step()` is the caller's.

        Args:
            weight: of this rank's share (`distributed.rank_loss_weight`).
        """
        self.discriminator.train().requires_grad_(True)
        real, fake = self.learner(torch.cat([hr, sr.detach()])).chunk(2)
        loss = discriminator_adversarial(real=real, fake=fake)
        self.optimizer.zero_grad(set_to_none=True)
        (weight * loss).backward()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        return {
            "discriminator": self.discriminator.state_dict(),
            "discriminator_optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["discriminator_optimizer"])
