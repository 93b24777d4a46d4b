"""Published weights, by name or from a path; a missing one is an error that names both ways."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.error import URLError

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.hub import load_state_dict_from_url

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of RGB in 0..1; what the published VGGs and SpyNet were trained with."""


class Normalize(nn.Module):
    """RGB in 0..1 to zero mean and unit variance over ImageNet."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, picture: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        return (picture - self.mean) / self.std


SPYNET_URL = (
    "https://download.openmmlab.com/mmediting/restorers/basicvsr/spynet_20210409-c6c1bd09.pth"
)


def load_state(
    source: str, *, name: str, what: str, flag: str, fetch: Callable[[], Mapping[str, Tensor]]
) -> Mapping[str, Tensor]:
    """Weights from `source`: `name` fetches them, anything else is the path of a state dict.

    Raises:
        FileNotFoundError: no internet for `name`, or no such file.
        ValueError: a file that is no state dict of tensors.
    """
    if source == name:
        try:
            return fetch()
        except (URLError, OSError, RuntimeError) as error:  # RuntimeError: a wrong hash
            raise FileNotFoundError(
                f"{what} weights cannot be downloaded here ({error}); download them where there "
                f"is internet and give their path: {flag} FILE"
            ) from error
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"{what} weights: no file {source}; give a state dict's path, or {flag} {name} to "
            f"download them by name"
        )
    return _read_state_dict(path, what)


def _read_state_dict(path: Path, what: str) -> Mapping[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a bad file; all mean the same here
        raise ValueError(f"{what} weights: {path} is no state dict ({error!r:.120})") from error
    state = state.get("state_dict", state.get("params", state)) if isinstance(state, dict) else {}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{what} weights: {path} holds no dict of tensors")
    return state


def fetch_spynet() -> Mapping[str, Tensor]:
    """SpyNet trained on Sintel, as its PyTorch port publishes it."""
    return load_state_dict_from_url(
        SPYNET_URL, map_location="cpu", check_hash=True, weights_only=True
    )


def in_layer_order(state: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """(weight, bias) of every convolution, sorted by the numbers in its name.

    The ports of SpyNet name their layers differently but number levels, then layers, alike.
    """
    layers = sorted(
        (name.removesuffix(".weight") for name in state if name.endswith(".weight")),
        key=lambda name: [int(number) for number in re.findall(r"\d+", name)],
    )
    pairs = [(state[f"{layer}.weight"], state.get(f"{layer}.bias")) for layer in layers]
    return [(weight, bias) for weight, bias in pairs if bias is not None]
