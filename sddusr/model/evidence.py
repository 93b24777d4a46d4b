"""What can be measured of Ref against the centre that it should show: detail and evidence for it.

Everything here is free of parameters and of gradients, looks at most `reach` pixels far and pads by
repeating the border, so a window of a larger picture gives the same inside its halo.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sddusr.config.ref_statistics import (
    BLOCK_PX,
    COLOR_ERROR,
    FLAT_SHARE,
    LEAST_CONTRAST,
    USUAL_DOUBT,
    USUAL_SHARE,
)
from sddusr.model.filters import (
    SOFT_REACH_PX,
    box_mean,
    chroma,
    high_pass,
    largest_around,
    luma,
    soften,
)

MEAN_PX = 7
"""Side of the windows that differences are averaged over."""
FINE_PX, CORRELATION_PX = 5, 9
"""Side of the high-pass, and of the windows, in which detail is correlated with the centre."""
EMPTY, FULL = 0.3 / 255, 0.5 / 255
"""Mean difference to the centre below which Ref shows nothing of its own, and from which it counts
whole. Where Ref has nothing to show the enlarged centre is laid in its place; rounded to 8 bits it
differs by 0.25 / 255, with a sensor's noise by more than 0.5."""
ROUNDED = 0.52 / 255
"""Difference of a pixel to the centre, in any colour, up to which it may be that, rounded."""
PATCH_PX = 3
"""Side of the least patch of such pixels that shows nothing: single ones are chance."""
COARSE_PX = 5
"""Side of the means in which Ref, softened, and the centre are compared for the doubt. What the
wide lens could not resolve is gone in them."""
CONTRAST_PX, DOUBT_PX = 9, 7
"""Sides of the surroundings in which the centre's largest contrast counts, since a lens spreads an
edge so far, and of those that what contradicts the centre makes doubtful."""
TINY = 1e-8

NUM_EVIDENCE = 4
"""Maps that the trust's convolutions read; the others are what Ref is doubted by."""
NUM_STATISTICS = 8
"""Statistics that the trust's layers read; the others are what doubt is measured against."""


class RefEvidence(NamedTuple):
    """Ref's detail and the local evidence for it, on Ref's grid."""

    detail: Float[Tensor, "b 3 h w"]
    """High-pass of Ref − centre, where that is anything: what is added to the bicubic picture."""
    look: Float[Tensor, "b 1 h w"]
    """High-pass of the centre's luma: what a cell looked like before its detail was moved."""
    evidence: Float[Tensor, "b 8 h w"]
    """Difference of Ref, softened, to the centre without its low-pass and with it; the detail's
    strength; its correlation with the centre's own fine band (below 0: Ref is softer); and the
    largest around of the coarse difference, of its chroma, of the centre's contrast, and of the
    contrast's chroma."""


def reach(window_px: int) -> int:
    """Pixels that the evidence and the statistics look beyond each of their own."""
    differences = SOFT_REACH_PX + max(window_px // 2, COARSE_PX // 2 + DOUBT_PX // 2)
    contrast = window_px // 2 + CONTRAST_PX // 2
    fine = FINE_PX // 2 + CORRELATION_PX // 2
    return max(max(differences, contrast) + MEAN_PX // 2, fine)


class Bands(NamedTuple):
    """Ref and the enlarged centre, taken apart once for all that is measured of them."""

    ref: Float[Tensor, "b 3 h w"]
    center: Float[Tensor, "b 3 h w"]
    soft: Float[Tensor, "b 3 h w"]
    """Ref as the wide lens would see it."""
    fine: Float[Tensor, "b 3 h w"]
    """Finest band of what Ref adds to the centre."""
    own: Float[Tensor, "b 3 h w"]
    """Finest band of the centre."""
    seen: Float[Tensor, "b 3 h w"]
    """High-pass of `soft`."""
    known: Float[Tensor, "b 3 h w"]
    """High-pass of the centre."""
    coarse: Float[Tensor, "b 3 h w"]
    """What Ref shows that the wide image would show too, and does not."""


def split_bands(
    ref: Float[Tensor, "b 3 h w"], center: Float[Tensor, "b 3 h w"], window_px: int
) -> Bands:
    """Filter Ref and the centre, enlarged to Ref's density."""
    soft = soften(ref)
    return Bands(
        ref,
        center,
        soft,
        fine=high_pass(ref - center, FINE_PX),
        own=high_pass(center, FINE_PX),
        seen=high_pass(soft, window_px),
        known=high_pass(center, window_px),
        coarse=box_mean(soft - center, COARSE_PX),
    )


def ref_detail(
    ref: Float[Tensor, "b 3 h w"], center: Float[Tensor, "b 3 h w"], window_px: int
) -> Float[Tensor, "b 3 h w"]:
    """High-pass of Ref − centre, where that is anything."""
    added = ref - center
    return _detail(added, own_pixels(added), window_px)


def _detail(
    added: Float[Tensor, "b 3 h w"], own: Float[Tensor, "b 1 h w"], window_px: int
) -> Float[Tensor, "b 3 h w"]:
    shown = own * shows_something(box_mean(added.abs().mean(1, keepdim=True), FINE_PX))
    return shown * high_pass(added, window_px)


def own_pixels(added: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """1 where Ref has something of its own; 0 exactly up to the edge of patches that are the
    enlarged centre in 8 bits, over which means would spread what Ref shows beside them."""
    own = (added.abs().amax(1, keepdim=True) > ROUNDED).to(added.dtype)
    return -largest_around(-largest_around(own, PATCH_PX), PATCH_PX)


def measure_evidence(bands: Bands, window_px: int) -> RefEvidence:
    """Ref's detail, and where it may be trusted."""
    added = bands.ref - bands.center
    own = own_pixels(added)
    detail = _detail(added, own, window_px)
    pairs = torch.cat([bands.fine * bands.fine, bands.own * bands.own, bands.fine * bands.own], 1)
    sums = box_mean(pairs.unflatten(1, (3, 3)).sum(2), CORRELATION_PX)
    power, own_power, shared = sums.unbind(1)
    # Not `+ TINY`: the ONNX exporter leaves out what adds 1e-8 or less, and 0 / 0 is no number.
    correlation = shared / (math.sqrt(TINY) * (power * own_power / TINY + 1).sqrt())
    differences = [bands.seen - bands.known, bands.soft - bands.center, detail]
    sizes = [*differences, *with_chroma(bands.coarse), *with_chroma(bands.known)]
    means = box_mean(torch.cat([x.abs().mean(1, keepdim=True) for x in sizes], 1), MEAN_PX)
    unlike = largest_around(means[:, 3:5], DOUBT_PX)
    contrast = largest_around(means[:, 5:], CONTRAST_PX)
    contrast = with_color_error(contrast)
    maps = [means[:, :2], own * means[:, 2:3], correlation.unsqueeze(1), unlike, contrast]
    evidence = torch.cat(maps, 1)
    return RefEvidence(detail, luma(bands.known), evidence)


def with_chroma(x: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
    """A difference and its chroma. What is drawn on grass or stone may differ from it in nothing
    but its colour, of which they show little themselves."""
    return x, chroma(x)


def with_color_error(contrast: Float[Tensor, "b 2 *_"]) -> Float[Tensor, "b 2 *_"]:
    """Contrast, and that of the chroma with what lenses make of the first."""
    of_image, of_chroma = contrast.split(1, dim=1)
    return torch.cat([of_image, of_chroma + COLOR_ERROR * of_image], dim=1)


def shows_something(strength: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    """0 where Ref is the enlarged centre, from a local mean of what it adds to that. Its feature
    would say that there is no detail, and the high-pass would repeat the detail beside it."""
    return ((strength - EMPTY) / (FULL - EMPTY)).clamp(0, 1)


def block_maps(bands: Bands) -> Float[Tensor, "b 13 h w"]:
    """What the statistics are means of: products of the fine bands (Ref's detail with itself, the
    centre with itself, both) and of the coarser high-pass, absolute differences of softened Ref and
    centre, with and without their low-pass, the finest bands of Ref and centre, the coarse
    difference and its chroma, and the power of the centre's chroma."""
    ref, center, soft, fine, own, seen, known, coarse = bands
    products = [fine * fine, own * own, fine * own, seen * seen, known * known, seen * known]
    differences = [(soft - center).abs(), (seen - known).abs()]
    finest = [high_pass(x, 3).abs() for x in (ref, center)]
    coarse_sizes = [x.abs() for x in with_chroma(coarse)]
    maps = (*products, *differences, *finest, *coarse_sizes, chroma(known).square())
    return torch.cat([x.mean(1, keepdim=True) for x in maps], 1)


def pool_blocks(maps: Float[Tensor, "b 13 h w"]) -> Float[Tensor, "b 13 n"]:
    """Means over blocks of `BLOCK_PX`; pixels beyond the last whole block are left out."""
    side = min(BLOCK_PX, *maps.shape[2:])
    return F.avg_pool2d(maps, side).flatten(2)


def statistics(blocks: Float[Tensor, "b 13 n"]) -> Float[Tensor, "b 12"]:
    """Statistics of the whole Ref: sharpness, noise, similarity, alignment, and usual doubt.

    Correlation of Ref's detail with the centre's fine band (negative: Ref is softer); decorrelation
    of what both lenses see; differences; energies of the finest band of Ref and centre, over all
    blocks and over the flattest fifth of them (noise). Then what the doubt is measured against, for
    the pictures and for their chroma: the coarse difference that is usual in the flattest blocks,
    below which contrast does not count (2), and the usual doubt (2).
    """
    means = blocks.mean(2)
    fine, own, shared, seen, known, both = means[:, :6].unbind(1)
    sharpens = shared / (fine * own + TINY).sqrt()
    alike = both / (seen * known + TINY).sqrt()
    num_flat = max(1, int(blocks.shape[2] * FLAT_SHARE))
    finest, coarse, power = blocks[:, 8:10], blocks[:, 10:12], blocks[:, 4::8]
    flattest = finest[:, 1].topk(num_flat, dim=1, largest=False).indices
    flattest = flattest.unsqueeze(1).expand(-1, 2, -1)
    energies = torch.cat([means[:, 6:10], finest.gather(2, flattest).mean(2)], dim=1)
    both_lenses = torch.stack([3 * sharpens, 4 * (1 - alike).clamp_min(0).sqrt()], dim=1)
    calm = coarse.gather(2, flattest).sort(dim=2).values[..., num_flat // 2]
    calm = calm.clamp_min(LEAST_CONTRAST)
    contrast = with_color_error(power.sqrt())
    doubt = (coarse / (contrast + calm.unsqueeze(2))).sort(dim=2).values
    usual = doubt[..., int(USUAL_SHARE * doubt.shape[2])].clamp(*USUAL_DOUBT)
    return torch.cat([both_lenses, (energies + 1e-4).log() + 4, calm, usual], dim=1)
