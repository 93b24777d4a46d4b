"""What a checkpoint's files say, checked before anything of their size is built.

Hashes show damage, not intent: whoever changes a file can change its hash too.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from sddusr.config import Config, ModelConfig, from_dict
from sddusr.model.precision import Precision
from sddusr.model.sddusr import SDDuSR


@dataclass(kw_only=True)
class Progress:
    """Where a run stands; all of it is in every checkpoint."""

    step: int = 0
    """Optimizer steps done; also the next global batch's number."""
    best_step: int = 0
    best_score: float = -math.inf
    """-inf until a checkpoint is the best; a file leaves it out until then."""
    data_hash: str
    tracking_run: str = ""
    precision: str = ""
    """The format that `--train.precision auto` stands for in this run."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `Progress(**found)` reads them."""
        found = asdict(self)
        if not math.isfinite(self.best_score):
            del found["best_score"]
        return found


def parse_config(content: bytes, place: str, version: int) -> tuple[Config, dict[str, Any]]:
    """Config and progress of a checkpoint's config.json.

    Raises:
        ValueError: another format, fields that this version does not know, or values of the wrong
            type.
    """
    try:
        described = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: its config is not JSON; use another checkpoint") from error
    found = described.get("format") if isinstance(described, dict) else None
    if found != version:
        raise ValueError(f"{place}: checkpoint format {found}, this version reads {version}")
    try:
        config = from_dict(Config, described.get("config"))
        return config, _checked_progress(described.get("progress"))
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(f"{place}: {error}; use another checkpoint") from error


def _checked_progress(progress: Any) -> dict[str, Any]:
    if not isinstance(progress, dict):
        raise ValueError("its progress is no object")
    types = {each.name: each.type for each in fields(Progress)}
    good = progress.get("precision", "") in ("", *get_args(Precision)) and all(
        name in types and _is_of(value, types[name]) for name, value in progress.items()
    )
    if not good:
        raise ValueError(f"its progress is damaged ({str(progress)[:80]})")
    return progress


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a JSON value is one of a field of `Progress`."""
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind and (kind is not int or value >= 0)


def parse_weights(content: bytes, place: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        ValueError: it is none.
    """
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{place}: its weights cannot be read ({_first_line(error)}); use another checkpoint"
        ) from error


def build_model(config: ModelConfig, state: Mapping[str, Tensor], place: str) -> SDDuSR:
    """The network of a config with its weights, whose counts are compared before it is built.

    Raises:
        ValueError: the weights are not those of the config's network, or are not finite.
    """
    _check_counts(config, state, place)
    with torch.random.fork_rng(devices=[]):  # its first weights are drawn and never used
        try:
            model = SDDuSR(config)
        except (RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
            raise ValueError(
                f"{place}: no network can be built of its config ({_first_line(error)})"
            ) from error
    _check_same_shapes(model.state_dict(), state, place)
    model.load_state_dict(dict(state))
    return model


def _check_same_shapes(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor], place: str
) -> None:
    remedy = "use another checkpoint, or the version that wrote it"
    if differing := sorted(expected.keys() ^ state.keys()):
        raise ValueError(
            f"{place}: its weights do not fit the network of its config ({differing[0]} is in one "
            f"of them alone); {remedy}"
        )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape or not tensor.is_floating_point():
            raise ValueError(
                f"{place}: its weights do not fit the network of its config ({name} is "
                f"{list(tensor.shape)} {tensor.dtype}, need {list(expected[name].shape)}); {remedy}"
            )
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{place}: {name} is not finite; use another checkpoint")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _check_counts(config: ModelConfig, state: Mapping[str, Tensor], place: str) -> None:
    """A network is not built where its config asks for more than its weights can be.

    Every layer has a tensor of its own, and every width is squared in some layer.
    """
    encoder, matching, alignment = config.encoder, config.matching, config.alignment
    num_layers = {
        "encoder.num_groups": encoder.num_groups,
        "encoder.num_blocks": encoder.num_groups * encoder.num_blocks,
        "encoder.num_ref_blocks": encoder.num_ref_blocks,
        "alignment.spynet_levels": alignment.spynet_levels,
        "fusion.num_blocks": config.fusion.num_blocks,
    }
    num_weights = {
        "dim": config.dim**2,
        "dictionary.num_tokens": config.dictionary.num_tokens * config.dim,
        "matching.dim": abs(matching.dim),
        "matching.vgg_dims": matching.vgg_dims[0] * matching.vgg_dims[1],
        "alignment.spynet_dims": max(map(abs, alignment.spynet_dims)),
    }
    total = sum(tensor.numel() for tensor in state.values())
    for counts, most in ((num_layers, len(state)), (num_weights, total)):
        for name, number in counts.items():
            if number > most:
                raise ValueError(
                    f"{place}: model.{name} asks for a network of {number:.3g} parts, its weights "
                    f"are {most}; use another checkpoint"
                )
