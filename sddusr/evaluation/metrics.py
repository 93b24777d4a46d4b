"""How near a picture is to the truth: PSNR, SSIM and LPIPS under named protocols.

The protocols are never mixed, so every number carries its protocol's name. One map a metric, in
float64, is averaged over three regions; `full` is therefore exactly the mixture of `center` and
`corner`, weighted by their sizes, in squared error and in SSIM.
"""

import math
import warnings
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from sddusr.config import SCALE
from sddusr.geometry.box import Box
from sddusr.model.pretrained_weights import load_state
from sddusr.model.tuning import tuning

Protocol = Literal["kedusr-float", "png8", "y"]
"""`kedusr-float`: the values as the network gives them, as in the paper's tables.
`png8`: clamped to 0..1 and rounded to 8 bits, as a user sees them. Both: RGB, no border cut.
`y`: the luma of `png8`'s values without a border of `Y_BORDER_PX`, as most papers on
super-resolution print it; several dB above the others."""

PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
DEFAULT_PROTOCOLS: tuple[Protocol, ...] = ("kedusr-float", "png8")

Y_WEIGHTS, Y_OFFSET = (65.481, 128.553, 24.966), 16.0
"""Luma of BT.601 in studio range, 16 to 235 of 255, for RGB in 0..1."""

Y_BORDER_PX = SCALE
"""Pixels that the protocol `y` leaves out along each side."""

WINDOW_PX = 11
WINDOW_SIGMA_PX = 1.5
"""SSIM's Gaussian window: its side and its width."""


class Regions(NamedTuple):
    """A metric over the whole picture, the tele camera's box and the rest; nan where empty."""

    full: float
    center: float
    corner: float


class Scores(NamedTuple):
    """PSNR in dB and SSIM of one picture under one protocol; the names are columns everywhere."""

    full_psnr: float
    full_ssim: float
    center_psnr: float
    center_ssim: float
    corner_psnr: float
    corner_ssim: float


def as_protocol(picture: Float[Tensor, "3 h w"], protocol: Protocol) -> Float64[Tensor, "c h w"]:
    """The picture's values as a protocol compares them: RGB, or luma alone; nothing is cut."""
    picture = picture.double()
    if protocol == "kedusr-float":
        return picture
    picture = (picture.clamp(0, 1) * 255).round() / 255
    return luma(picture) if protocol == "y" else picture


def luma(picture: Float64[Tensor, "3 h w"]) -> Float64[Tensor, "1 h w"]:
    """Y of BT.601, from RGB in 0..1 to 16/255..235/255."""
    weights = picture.new_tensor(Y_WEIGHTS).view(3, 1, 1)
    return ((weights * picture).sum(0, keepdim=True) + Y_OFFSET) / 255


def psnr(sr: Float[Tensor, "c rows cols"], hr: Float[Tensor, "c h w"], box: Box) -> Regions:
    """Peak signal-to-noise ratio in dB for values in 0..1; inf where the pictures are equal.

    Raises:
        ValueError: sizes differ, or the box leaves the picture.
    """
    _check(sr, hr, box)
    error = (sr.double() - hr.double()).square().mean(dim=0)
    return Regions(*(_decibel(mse) for mse in _region_means(error, box)))


def ssim(
    sr: Float[Tensor, "c rows cols"],
    hr: Float[Tensor, "c h w"],
    box: Box,
    protocol: Protocol = "png8",
) -> Regions:
    """Structural similarity for values in 0..1: the mean over windows and colours.

    Windows are 11x11 Gaussians (σ = 1.5) that lie wholly in the picture. A window belongs to
    `center` if its middle pixel lies in the box, else to `corner`: every window counts once, and
    those at the box's edge also see pixels across it. Under `kedusr-float` the box is laid on the
    map of windows as it is, 5 pixels off, as KeDuSR's evaluation does; the paper's tables were made
    with it, and up to 0.002 lie between the two.

    Raises:
        ValueError: sizes differ, the box leaves the picture, or the picture is under 11 pixels.
    """
    _check(sr, hr, box)
    height, width = hr.shape[1:]
    if min(height, width) < WINDOW_PX:
        raise ValueError(f"picture is {height}x{width}, SSIM needs {WINDOW_PX}x{WINDOW_PX} or more")
    margin = 0 if protocol == "kedusr-float" else WINDOW_PX // 2
    shifted = Box(*(side - margin for side in box))
    return Regions(*_region_means(_ssim_map(sr.double(), hr.double()), shifted))


def score(
    sr: Float[Tensor, "3 rows cols"], hr: Float[Tensor, "3 h w"], box: Box, protocol: Protocol
) -> Scores:
    """PSNR and SSIM of every region under one protocol, on the device that holds both pictures.

    Raises:
        ValueError: as `psnr` and `ssim`.
    """
    _check(sr, hr, box)
    sr, hr = as_protocol(sr, protocol), as_protocol(hr, protocol)
    if protocol == "y":
        sr, hr, box = _without_border(sr, hr, box)
    decibels, similarity = psnr(sr, hr, box), ssim(sr, hr, box, protocol)
    pairs = zip(decibels, similarity, strict=True)
    return Scores(*(value for pair in pairs for value in pair))


class Lpips:
    """Learned perceptual distance, AlexNet v0.1, of whole pictures as saved (`png8`).

    `weights` is `imagenet` (by name, needs internet once) or a path to a state dict of
    torchvision's alexnet. The linear heads ship with the package `lpips`; the backbone does not,
    and random weights never give a score.

    Raises:
        FileNotFoundError: the backbone's weights cannot be had.
        ValueError: the file holds something else.
    """

    def __init__(self, weights: str = "imagenet", device: str | torch.device = "cpu") -> None:
        import lpips
        from torchvision.models import AlexNet_Weights

        state = load_state(
            weights,
            name="imagenet",
            what="LPIPS's AlexNet",
            flag="--lpips-weights",
            fetch=lambda: AlexNet_Weights.IMAGENET1K_V1.get_state_dict(
                check_hash=True, progress=False
            ),
        )
        with warnings.catch_warnings():
            # lpips names torchvision's weights the way torchvision 0.12 did.
            warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
            self.net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        # "slice2.3.weight" of lpips is "features.3.weight" of torchvision.
        names = {name: f"features.{name.split('.', 1)[1]}" for name in self.net.net.state_dict()}
        if missing := set(names.values()) - state.keys():
            raise ValueError(
                f"LPIPS's AlexNet weights: {weights} has no {min(missing)}, need a state dict of "
                f"torchvision's alexnet"
            )
        self.net.net.load_state_dict({ours: state[theirs] for ours, theirs in names.items()})
        self.net.eval().to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, sr: Float[Tensor, "3 h w"], hr: Float[Tensor, "3 h w"]) -> float:
        """The distance of two pictures in 0..1 after the rounding of `png8`; 0 where equal."""
        pair = (as_protocol(picture, "png8").float()[None] for picture in (sr, hr))
        sr, hr = (2 * picture.to(self.device) - 1 for picture in pair)
        return self.net(sr, hr).item()


def _without_border(
    sr: Float64[Tensor, "1 h w"], hr: Float64[Tensor, "1 h w"], box: Box
) -> tuple[Float64[Tensor, "1 _ _"], Float64[Tensor, "1 _ _"], Box]:
    """Pictures and box as the protocol `y` compares them."""
    height, width = (side - 2 * Y_BORDER_PX for side in hr.shape[1:])
    inner = ..., slice(Y_BORDER_PX, Y_BORDER_PX + height), slice(Y_BORDER_PX, Y_BORDER_PX + width)
    y0, y1 = (min(max(edge - Y_BORDER_PX, 0), height) for edge in (box.y0, box.y1))
    x0, x1 = (min(max(edge - Y_BORDER_PX, 0), width) for edge in (box.x0, box.x1))
    return sr[inner], hr[inner], Box(y0, y1, x0, x1)


def _check(sr: Tensor, hr: Tensor, box: Box) -> None:
    height, width = hr.shape[1:]
    if sr.shape != hr.shape:
        raise ValueError(
            f"picture is {sr.shape[1]}x{sr.shape[2]}, HR is {height}x{width}; "
            f"compare pictures of one size"
        )
    if not (0 <= box.y0 < box.y1 <= height and 0 <= box.x0 < box.x1 <= width):
        raise ValueError(
            f"centre box is {list(box)}, need [y0, y1, x0, x1] within {height}x{width} HR pixels"
        )


def _region_means(values: Float64[Tensor, "h w"], box: Box) -> tuple[float, float, float]:
    """Means over everything, the box and its complement; the box may stick out."""
    inside = torch.zeros(values.shape, dtype=torch.bool, device=values.device)
    y0, y1, x0, x1 = (max(side, 0) for side in box)
    inside[y0:y1, x0:x1] = True
    full, center, corner = (
        part.mean().item() for part in (values, values[inside], values[~inside])
    )
    return full, center, corner


def _decibel(mse: float) -> float:
    return math.inf if mse == 0 else -10 * math.log10(mse)


def _ssim_map(
    sr: Float64[Tensor, "c h w"], hr: Float64[Tensor, "c h w"]
) -> Float64[Tensor, "h-10 w-10"]:
    border, rows = WINDOW_PX - 1, tuning(hr.device).ssim_rows
    strips = [
        _ssim_strip(sr[:, top : top + rows + border], hr[:, top : top + rows + border])
        for top in range(0, hr.shape[1] - border, rows)
    ]
    return torch.cat(strips)


def _ssim_strip(
    x: Float64[Tensor, "c h w"], y: Float64[Tensor, "c h w"]
) -> Float64[Tensor, "h-10 w-10"]:
    """Wang et al. 2004, with the window's own (biased) variances; mean over the colours."""
    moments = _blur(torch.stack([x, y, x * x, y * y, x * y]))
    mean_x, mean_y, xx, yy, xy = moments
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    covariance = 2 * (xy - mean_x * mean_y) + c2
    variances = (xx - mean_x * mean_x) + (yy - mean_y * mean_y) + c2
    return (luminance * covariance / variances).mean(dim=0)


def _blur(maps: Float64[Tensor, "n c h w"]) -> Float64[Tensor, "n c h-10 w-10"]:
    # A sum of shifted views: in float64 six times as fast on a processor as conv2d.
    window = _gaussian()
    for axis in (2, 3):
        size = maps.shape[axis] - WINDOW_PX + 1
        blurred = maps.narrow(axis, 0, size) * window[0]
        for offset, weight in enumerate(window[1:], start=1):
            blurred.add_(maps.narrow(axis, offset, size), alpha=weight)
        maps = blurred
    return maps


def _gaussian() -> list[float]:
    middle = WINDOW_PX // 2
    weights = [math.exp(-((i - middle) ** 2) / (2 * WINDOW_SIGMA_PX**2)) for i in range(WINDOW_PX)]
    return [weight / sum(weights) for weight in weights]
