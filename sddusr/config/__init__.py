"""Every knob of the method as frozen dataclasses, and the presets, which are instances of them."""

from sddusr.config.model import (
    AlignmentConfig,
    DetailConfig,
    DictionaryConfig,
    EncoderConfig,
    FusionConfig,
    MaskConfig,
    MatchingConfig,
    ModelConfig,
)
from sddusr.config.presets import BASELINE, COMPACT, DEMO, PAPER, PRESETS, SFM
from sddusr.config.serialization import flatten, from_dict, to_dict
from sddusr.config.training import (
    LR_PER_CELL,
    MIN_FULL_CROP_PX,
    Config,
    DataConfig,
    LossConfig,
    OptimConfig,
    RefsConfig,
    TrainConfig,
)

SCALE = 2
"""HR pixels per LR pixel; the network's pixel shuffles and the matching grid are built for it."""

__all__ = [
    "BASELINE",
    "COMPACT",
    "DEMO",
    "LR_PER_CELL",
    "MIN_FULL_CROP_PX",
    "PAPER",
    "PRESETS",
    "SCALE",
    "SFM",
    "AlignmentConfig",
    "Config",
    "DataConfig",
    "DetailConfig",
    "DictionaryConfig",
    "EncoderConfig",
    "FusionConfig",
    "LossConfig",
    "MaskConfig",
    "MatchingConfig",
    "ModelConfig",
    "OptimConfig",
    "RefsConfig",
    "TrainConfig",
    "flatten",
    "from_dict",
    "to_dict",
]
