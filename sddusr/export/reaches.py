"""How far each stage of a network looks, which a package's runtime needs for its windows."""

from torch import nn

from sddusr.config import SCALE
from sddusr.inference.carried import BICUBIC_REACH_PX
from sddusr.inference.precompute import hint_reach, trust_reach
from sddusr.inference.sources import trust_halo
from sddusr.inference.tiles import lr_reach, reach
from sddusr.model.evidence import reach as evidence_reach
from sddusr.model.sddusr import SDDuSR
from sddusr.portable.package import Reaches


def measure_reaches(model: SDDuSR) -> Reaches:
    """The reach of each graph's parts, as `inference` adds them up for its tiles."""
    fusion = model.fusion
    sources_px = max(lr_reach(model.confidence_conv), reach(model.lr_encoder.up))
    before_gates_px = lr_reach(fusion.widest.body[:3])
    fused_px = sources_px + lr_reach(fusion.widest, fusion.body[:-1])
    look_px = -(-(model.detail_window_px // 2) // SCALE) + BICUBIC_REACH_PX
    return Reaches(
        dim=model.dim,
        wide_dim=fusion.wide_dim,
        flow_dim=max(
            layer.out_channels
            for layer in model.alignment.spynet.modules()
            if isinstance(layer, nn.Conv2d)
        ),
        vgg_dim=model.matching.features.vgg_dims[0],
        features_dim=model.matching.features.project.out_channels,
        features_px=reach(model.matching.features),
        encoder_px=reach(model.lr_encoder.head, model.lr_encoder.body),
        center_encoder_px=reach(model.center_encoder),
        ref_encoder_px=reach(model.ref_encoder),
        align_px=hint_reach(model) + trust_reach(model),
        max_offset_px=int(-(-model.alignment.max_offset_px // 1)),
        evidence_px=evidence_reach(model.detail_window_px),
        doubt_px=0 if model.trust is None else model.trust.doubt_px // 2,
        gates_px=sources_px + before_gates_px,
        tile_px=max(fused_px + lr_reach(fusion.body[-1], model.head), trust_halo(model) + look_px),
    )
