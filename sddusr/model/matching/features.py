"""Matching features F_M: VGG16 up to relu2_2, fine-tuned, and a projection."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from sddusr.config import MatchingConfig
from sddusr.model.blocks import conv3x3
from sddusr.model.pretrained_weights import Normalize, load_state

VGG_CONVS = (0, 2, 5, 7)
"""Positions of conv1_1, conv1_2, conv2_1 and conv2_2, as in torchvision's `vgg16().features`."""


class MatchingFeatures(nn.Module):
    """RGB in 0..1 to features on the matching grid (half the picture's height and width)."""

    def __init__(self, config: MatchingConfig) -> None:
        super().__init__()
        self.vgg_dims = first, second = config.vgg_dims
        self.normalize = Normalize()
        self.vgg = nn.Sequential(
            conv3x3(3, first),
            nn.ReLU(inplace=True),
            conv3x3(first, first),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            conv3x3(first, second),
            nn.ReLU(inplace=True),
            conv3x3(second, second),
            nn.ReLU(inplace=True),
        )
        self.project = conv3x3(second, config.dim)

    def forward(self, picture: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d h//2 w//2"]:
        return self.project(self.vgg(self.normalize(picture)))

    def load_vgg(self, source: str) -> None:
        """Start from VGG16's ImageNet weights, by name (`imagenet`) or from a path.

        Raises:
            FileNotFoundError: they are not to be had.
            ValueError: their shapes do not fit `vgg_dims`.
        """
        state = load_state(
            source,
            name="imagenet",
            what="VGG16",
            flag="--model.matching.vgg-weights",
            fetch=_fetch_vgg16,
        )
        stage = {f"{i}.{kind}": state[f"features.{i}.{kind}"]
                 for i in VGG_CONVS for kind in ("weight", "bias")
                 if f"features.{i}.{kind}" in state}  # fmt: skip
        try:
            self.vgg.load_state_dict(stage)
        except RuntimeError as error:
            raise ValueError(
                f"VGG16 weights {source} do not fit --model.matching.vgg-dims "
                f"{self.vgg[0].out_channels} {self.vgg[5].out_channels}; ImageNet's need 64 128"
            ) from error


def _fetch_vgg16() -> Mapping[str, Tensor]:
    from torchvision.models import VGG16_Weights

    return VGG16_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True)
