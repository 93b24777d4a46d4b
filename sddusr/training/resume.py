"""Where a run starts: its own newest good checkpoint, another run's network, published weights."""

import logging
from dataclasses import replace

from sddusr.checkpoint import Checkpoint, read_checkpoint
from sddusr.checkpoint_checks import build_model
from sddusr.config import Config, ModelConfig, flatten, to_dict
from sddusr.model.sddusr import SDDuSR

log = logging.getLogger(__name__)

WITHOUT_EFFECT = ("train.profile_steps",)
"""What a resumed run may change: it only watches."""


def load_start(model: SDDuSR, config: Config) -> None:
    """What a new run starts from: another run's network, or the published weights.

    Raises:
        FileNotFoundError, ValueError: it is missing or does not fit.
    """
    if not config.train.init_from:
        model.load_published_weights(config.model)
        return
    earlier = read_checkpoint(config.train.init_from)
    if config.train.init_missing == "fresh":
        _load_what_fits(model, earlier)
        return
    if _without_weights(earlier.config.model) != _without_weights(config.model):
        raise ValueError(
            f"{earlier.place} holds a network of another shape than the config's; give the same "
            f"preset and --model flags, pass --train.init-missing fresh to load what fits, or "
            f"leave --train.init-from out"
        )
    model.load_state_dict(
        build_model(earlier.config.model, earlier.model_state, earlier.place).state_dict()
    )


def _load_what_fits(model: SDDuSR, earlier: Checkpoint) -> None:
    """Load the tensors whose name and shape agree, and say which parts start fresh."""
    own = model.state_dict()
    fits = {
        name: tensor
        for name, tensor in earlier.model_state.items()
        if name in own and own[name].shape == tensor.shape
    }
    if not fits:
        raise ValueError(
            f"{earlier.place}: none of its tensors fits the config's network; leave "
            f"--train.init-from out"
        )
    model.load_state_dict(own | fits)
    fresh = sorted({name.partition(".")[0] for name in own.keys() - fits.keys()})
    log.info(
        "%s: %d of %d tensors loaded; fresh: %s",
        *(earlier.place, len(fits), len(own), ", ".join(fresh) or "none"),
    )


def _without_weights(config: ModelConfig) -> ModelConfig:
    """The network alone, wherever its first weights came from."""
    return replace(
        config,
        matching=replace(config.matching, vgg_weights="none"),
        alignment=replace(config.alignment, spynet_weights="none"),
    )


def check_same_run(checkpoint: Checkpoint, config: Config, data_hash: str) -> None:
    """A run never goes on silently with another config or other data.

    Raises:
        ValueError: what differs.
    """
    before, now = (flatten(to_dict(c)) for c in (checkpoint.config, config))
    before["data"], now["data"] = checkpoint.progress.get("data_hash"), data_hash
    changed = [
        f"{key} was {before.get(key)}, is {now[key]}"
        for key in now
        if before.get(key) != now[key] and key not in WITHOUT_EFFECT
    ]
    if changed:
        raise ValueError(
            f"{checkpoint.place} is of another run: {'; '.join(changed[:3])}"
            f"{' and more' if len(changed) > 3 else ''}; take another --name"
        )
