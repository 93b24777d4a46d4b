"""The presets: instances of the config, never classes of their own.

A variant is config: `baseline` and `sfm` are `paper` with parts switched off.
"""

from dataclasses import replace

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
from sddusr.config.training import (
    Config,
    DataConfig,
    LossConfig,
    OptimConfig,
    RefsConfig,
    TrainConfig,
)

PAPER = Config()

BASELINE = replace(
    PAPER,
    model=replace(
        PAPER.model, mask=MaskConfig(enabled=False), dictionary=DictionaryConfig(enabled=False)
    ),
)

SFM = replace(PAPER, model=replace(PAPER.model, dictionary=DictionaryConfig(enabled=False)))

FIELD_REFS = RefsConfig(
    defocus_share=0.10,
    noise_share=0.08,
    occluder_share=0.13,
    exposure_share=0.03,
    color_share=0.03,
    jpeg_share=0.04,
    zoom_share=0.03,
    shift_share=0.04,
    absent_share=0.06,
)
"""Half of the tele pictures are as they should be."""

HARDER_REFS = RefsConfig(
    defocus_share=0.06,
    defocus_px=(0.7, 2.5),
    noise_share=0.10,
    noise_sigma=(2.0, 14.0),
    occluder_share=0.16,
    exposure_share=0.06,
    color_share=0.03,
    jpeg_share=0.14,
    zoom_share=0.02,
    shift_share=0.04,
    absent_share=0.06,
)
"""Two thirds are not, and none is so bad that it would be left out as a whole in use."""

DEMO = Config(
    model=ModelConfig(
        dim=16,
        image_skip=True,
        encoder=EncoderConfig(num_groups=1, num_blocks=4, reduction=4, num_ref_blocks=2),
        matching=MatchingConfig(vgg_dims=(16, 32), vgg_weights="none"),
        alignment=AlignmentConfig(
            spynet_weights="none", spynet_levels=3, spynet_dims=(16, 16, 16, 16), num_groups=4
        ),
        dictionary=DictionaryConfig(
            num_tokens=32, norm=True, num_heads=2, token_scale=0.3, keep_logit=-1.0
        ),
        fusion=FusionConfig(reduction=4, num_blocks=2),
        detail=DetailConfig(enabled=True, replaced_residual=0.88),
    ),
    losses=LossConfig(mask_weight=2e-2, trust_weight=1e-2),
    optim=OptimConfig(
        lr=2e-3,
        min_lr=1e-5,
        warmup_steps=20,
        flow_lr_scale=0.01,
        offset_lr_scale=0.1,
        align_from_step=75,
    ),
    data=DataConfig(
        crop_px=32,
        shift_px=(0, 16),
        far_share=0.6,
        color_augment=0.5,
        refs=FIELD_REFS,
        register_ref="homography",
    ),
    train=TrainConfig(
        num_steps=150, batch_size=8, log_every=10, validate_every=75, checkpoint_every=75
    ),
)

COMPACT = replace(
    DEMO,
    model=replace(
        DEMO.model,
        dim=24,
        encoder=EncoderConfig(num_groups=3, num_blocks=6, reduction=6, num_ref_blocks=2),
        alignment=replace(DEMO.model.alignment, num_groups=2),
        dictionary=replace(DEMO.model.dictionary, num_tokens=64, num_heads=1),
        detail=DetailConfig(enabled=True, replaced_residual=0.5),
    ),
    optim=replace(DEMO.optim, lr=1.5e-3, warmup_steps=50, align_from_step=1500),
    data=replace(DEMO.data, crop_px=48, shift_px=(0, 24), register_ref="auto", refs=HARDER_REFS),
    train=TrainConfig(
        num_steps=6000,
        batch_size=4,
        ema_decay=0.999,
        log_every=50,
        validate_every=1000,
        checkpoint_every=250,
    ),
)

PRESETS: dict[str, tuple[str, Config]] = {
    "demo": ("A narrow network for a processor; needs no downloaded weights.", DEMO),
    "compact": ("A small network with a deep LR encoder; its trained weights ship.", COMPACT),
    "paper": ("SDDuSR as published: sparse matching and token dictionaries.", PAPER),
    "baseline": ("Dense matching, no dictionary (Table 2, first row).", BASELINE),
    "sfm": ("The baseline with sparse feature matching (Table 2, second row).", SFM),
}
"""Name -> (what it is, config)."""
