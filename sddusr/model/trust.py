"""Learned trust in Ref, which starts from measured evidence.

In Ref's own frame: how far its feature is used, and how far its detail may be trusted. In the
image's frame: the share of a match's feature that is used, and of the moved detail that is added.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sddusr.config import SCALE, DetailConfig
from sddusr.model.blocks import activation, conv3x3, zero_start
from sddusr.model.detail import to_pixels
from sddusr.model.doubt import doubt_penalty
from sddusr.model.evidence import MEAN_PX, NUM_EVIDENCE, NUM_STATISTICS, shows_something
from sddusr.model.filters import box_mean
from sddusr.types import DetailOutput

MATCH_SCALE, MATCH_CENTER = 30.0, 0.93
"""Start of the logistics of the confidence, of a match's feature and of its detail: a match of 1
gets 0.89, one of 0.9 gets 0.29. A wrong match costs more than a right one gives."""
ERROR_SCALES = (20.0, 20.0, 12.0)
"""Start of what a difference in 0..1 takes off the logit: where a match looks unlike LR, where Ref
looks unlike the centre, and where its low-pass does."""
CORRELATION_SCALE = 4.0
"""Start of what softness takes off: of a correlation below 0."""
FEATURE_LOGIT, DETAIL_LOGIT = 3.0, 2.0
"""Ref's feature and detail start nearly whole."""
LARGEST_CORRECTION = 8.0
"""What convolutions may add to a logit or take off it. In most samples more is better: without a
limit it grew to 1,300 in 500 steps, where no evidence counts and no gradient is left."""
LOOK_PX = 5
"""Side of the windows in which a match's look is compared with LR's."""
EVIDENCE_GAIN, DETAIL_GAIN = 20.0, 10.0
"""Bring differences of pictures in 0..1 to about 1 for the convolutions."""
NUM_QUERY_MAPS = 6
SUPPORT_SCALE, SUPPORT_CENTER = 15.0, 0.35
"""Logistic of the mean trust around a pixel: it multiplies by 0.9997 at 0.9, by 0.02 at 0.1."""


class Trust(nn.Module):
    """The evidence's weights and the convolutions that correct what they say."""

    def __init__(self, dim: int, config: DetailConfig) -> None:
        super().__init__()
        self.learned, width = config.trust, config.trust_dim
        self.support_px, self.doubt_px = config.support_px, config.doubt_px
        self.doubt_limit = config.doubt_limit
        self.match_scale = nn.Parameter(torch.full((2,), math.log(MATCH_SCALE)))
        self.match_center = nn.Parameter(torch.full((2,), MATCH_CENTER))
        self.replaced_logit = None
        if config.replaced_residual:
            self.replaced_logit = nn.Parameter(torch.tensor(config.replaced_residual).logit())
        if not self.learned:
            return
        self.error_scales = nn.Parameter(torch.tensor(ERROR_SCALES).log())
        self.correlation_scale = nn.Parameter(torch.tensor(math.log(CORRELATION_SCALE)))
        self.of_picture = nn.Sequential(
            nn.Linear(NUM_STATISTICS, 24), activation(), nn.Linear(24, NUM_STATISTICS)
        )
        self.of_ref = _head(2 * dim + NUM_EVIDENCE + NUM_STATISTICS, width, 2)
        self.of_place = _head(dim + NUM_QUERY_MAPS, width, 1)

    def penalty(
        self, evidence: Float[Tensor, "b 8 h w"], statistics: Float[Tensor, "b 12"]
    ) -> Float[Tensor, "b 1 h w"]:
        """What doubt takes off the logits in Ref's frame; see `doubt_penalty`."""
        return doubt_penalty(evidence, statistics, self.doubt_limit, self.doubt_px)

    def in_ref(
        self,
        evidence: Float[Tensor, "b 8 h w"],
        penalty: Float[Tensor, "b 1 h w"],
        statistics: Float[Tensor, "b 12"],
        center_feat: Float[Tensor, "b c h w"],
        aligned_feat: Float[Tensor, "b c h w"],
    ) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b 1 h w"]]:
        """On Ref's grid: the share of its feature that is used, and the logit of its detail.

        Args:
            penalty: what doubt takes off both.
        """
        if not self.learned:
            nothing = evidence.new_zeros(()).expand_as(evidence[:, :1])
            return nothing + 1, nothing
        unlike, unlike_low, strength, correlation = evidence[:, :4].split(1, dim=1)
        of_picture = self.of_picture(statistics[:, :NUM_STATISTICS])
        inputs = [
            EVIDENCE_GAIN * evidence[:, :3],
            correlation,
            of_picture[..., None, None].expand(-1, -1, *evidence.shape[2:]),
        ]
        parts = [center_feat, aligned_feat, *(x.to(center_feat.dtype) for x in inputs)]
        feature, detail = self.of_ref(torch.cat(parts, 1)).float().split(1, dim=1)
        _, weigh_unlike, weigh_low = self.error_scales.exp().unbind()
        prior = self.correlation_scale.exp() * correlation.clamp_max(0)
        prior = prior - weigh_unlike * unlike - weigh_low * unlike_low
        logit = prior + _bounded(detail)
        share = shows_something(strength) * torch.sigmoid(FEATURE_LOGIT + feature)
        return share * penalty.exp(), logit + penalty

    def of_match(self, confidence: Float[Tensor, "b 1 hq wq"]) -> Float[Tensor, "b 1 hq wq"]:
        """The share of a match's feature that is used."""
        return torch.sigmoid(self._match_logit(confidence.float(), 0))

    def _match_logit(self, confidence: Tensor, index: int) -> Tensor:
        """Of a feature (0) or of detail (1)."""
        return self.match_scale[index].exp() * (confidence - self.match_center[index])

    def in_picture(
        self,
        lr_encoded: Float[Tensor, "b c h w"],
        lr_look: Float[Tensor, "b 1 2*h 2*w"],
        confidence: Float[Tensor, "b 1 2*h 2*w"],
        moved: Float[Tensor, "b 5 2*h 2*w"],
        inside: Bool[Tensor, "b 1 2*h 2*w"],
    ) -> Float[Tensor, "b 1 2*h 2*w"]:
        """The share of the moved detail that is added, 0 to 1.

        At its own place it hangs on Ref alone, and on how far the surroundings are trusted: where
        Ref shows another object, some patches of it look alike by chance. Elsewhere Ref's detail
        and the match must both be right, so the shares of both are multiplied: their logits, added,
        would let a good Ref outvote a bad match.

        Args:
            lr_encoded: LR's feature on its own grid.
            lr_look: high-pass of the enlarged LR picture's luma.
            confidence: of the match, 1 inside the box.
            moved: Ref's detail, look and logit at the picture's places.
            inside: where the centre box is.
        """
        match_logit = self._match_logit(confidence, 1)
        if not self.learned:
            return torch.sigmoid(match_logit)
        detail, look, ref_logit = moved.split([3, 1, 1], dim=1)
        unlike = box_mean((look - lr_look).abs(), LOOK_PX)
        own = box_mean(lr_look.abs(), MEAN_PX)
        maps = torch.cat(
            [
                confidence,
                EVIDENCE_GAIN * unlike,
                EVIDENCE_GAIN * own,
                ref_logit / 4,
                DETAIL_GAIN * detail.abs().mean(1, keepdim=True),
                inside.to(confidence.dtype),
            ],
            1,
        )
        maps = F.avg_pool2d(maps, SCALE).to(lr_encoded.dtype)
        correction = self.of_place(torch.cat([lr_encoded, maps], 1)).float()
        correction = _bounded(enlarge(correction))
        match_logit = match_logit - self.error_scales[0].exp() * unlike + correction
        ref_logit = DETAIL_LOGIT + ref_logit
        moved_share = torch.sigmoid(ref_logit) * torch.sigmoid(match_logit)
        own_share = supported_share(torch.sigmoid(ref_logit + correction), inside, self.support_px)
        return torch.where(inside, own_share, moved_share)

    def of_residual(self, skip: DetailOutput) -> Float[Tensor, "b 1 h w"] | None:
        """The share of the network's residual that is added beside trusted detail; None: all.

        Where Ref shows nothing (its detail is 0 exactly: bars, transparent parts) there is nothing
        that could take its place.
        """
        if self.replaced_logit is None:
            return None
        shown = skip.inside & (skip.detail != 0).any(1, keepdim=True)
        return 1 - torch.sigmoid(self.replaced_logit) * skip.trust * shown


def supported_share(
    share: Float[Tensor, "b 1 h w"], inside: Bool[Tensor, "b 1 h w"], side: int
) -> Float[Tensor, "b 1 h w"]:
    """Less of the share where its mean over the surroundings inside the box is small."""
    if not side:
        return share
    weight = inside.to(share.dtype)
    mean = box_mean(share * weight, side) / box_mean(weight, side).clamp_min(1 / side**2)
    return share * torch.sigmoid(SUPPORT_SCALE * (mean - SUPPORT_CENTER))


def _bounded(correction: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    return LARGEST_CORRECTION * torch.tanh(correction / LARGEST_CORRECTION)


def enlarge(x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 2*h 2*w"]:
    """Bilinear, twice as large."""
    return F.interpolate(x, scale_factor=SCALE, mode="bilinear", align_corners=False)


def confidence_of_pixels(
    confidence: Float[Tensor, "b 1 hq wq"], inside: Bool[Tensor, "b 1 hq wq"] | None
) -> Float[Tensor, "b 1 4*hq 4*wq"]:
    """On the 2x grid; a cell inside the box is its own twin."""
    if inside is not None:
        confidence = torch.where(inside, torch.ones_like(confidence), confidence)
    return to_pixels(confidence)


def _head(dim_in: int, width: int, dim_out: int) -> nn.Sequential:
    """Three convolutions that say nothing to begin with."""
    return nn.Sequential(
        conv3x3(dim_in, width),
        activation(),
        conv3x3(width, width),
        activation(),
        zero_start(conv3x3(width, dim_out)),
    )
