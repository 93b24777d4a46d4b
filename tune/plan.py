"""What a search will do, decided and checked before it begins."""

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.ray_runtime import persistent_paths
from pipelines.ray_runtime.preflight import check_data, data_or_samples, with_absolute_weights
from sddusr import storage as places
from sddusr.config import Config, flatten, to_dict
from sddusr.data.dataset import ShardSet
from sddusr.runs.own_folders import plain_name
from tune.options import SearchOptions
from tune.proposals import Algorithm, Proposer
from tune.scheduler import Halving
from tune.space import Space
from tune.space_files import find_space

MAX_TRIALS = 16
"""Configs that are tried where no budget is given; a space with no more is tried whole."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a search does, decided before it begins."""

    name: str
    storage: str
    folder: str
    identity: dict[str, Any]
    """All that decides the result, as JSON values."""
    config: Config
    shards: ShardSet
    space: Space
    proposer: Proposer
    num_trials: int | None
    """None for as many as the hours allow."""
    halving: Halving | None
    """None where no trial is stopped early."""


def make_plan(options: SearchOptions) -> Plan:
    """Decide everything, and check that it can be.

    Raises:
        ValueError, OSError: see `run_search`.
    """
    _check_budget(options)
    config = with_absolute_weights(options.config, options.tracking_uri)
    if options.steps is not None:
        config = replace(config, train=replace(config.train, num_steps=options.steps))
    space = find_space(options.space, config)
    storage = persistent_paths.storage_folder(options.storage)
    persistent_paths.check_is_named(options.storage, "--storage", "a folder or URI")
    data = data_or_samples(options.data, storage, config)
    shards = ShardSet(data)
    check_data(shards, config)
    if not shards.rows("val"):
        raise ValueError(
            f"{data}: no split val, and a search must not choose by test pictures; preprocess with "
            f"--hold-out to set training scenes aside"
        )
    is_small = space.size is not None and space.size <= MAX_TRIALS
    algorithm: Algorithm = options.search or ("grid" if is_small else "optuna")
    proposer = Proposer(space, algorithm, options.seed)
    halving = _halving(options, config)
    identity = {
        "config": flatten(to_dict(config)),
        "space": space.described(),
        "data": shards.content_hash,
        "search": algorithm,
        "seed": options.seed,
        "halving": halving and {"first_step": halving.first_step, "factor": halving.factor},
    }
    described = json.dumps(identity, sort_keys=True)
    digest = hashlib.sha256(described.encode()).hexdigest()[:8]
    space_name = plain_name(Path(options.space).stem)
    name = options.name or f"search-{options.preset}-{space_name}-{digest}"
    return Plan(
        name=name,
        storage=storage,
        folder=places.join(storage, name),
        identity=json.loads(described),
        config=config,
        shards=shards,
        space=space,
        proposer=proposer,
        num_trials=_num_trials(options, proposer),
        halving=halving,
    )


def _check_budget(options: SearchOptions) -> None:
    for flag, value in (
        ("--trials", options.trials),
        ("--steps", options.steps),
        ("--hours", options.hours),
    ):
        if value is not None and value <= 0:
            raise ValueError(f"{flag} is {value}, need more than 0")
    if options.asha_factor <= 1:
        raise ValueError(f"--asha-factor is {options.asha_factor}, need more than 1")
    if options.retry_failed and not options.resume:
        raise ValueError("--retry-failed goes on with a search; give --resume too")
    if options.fresh and options.resume:
        raise ValueError("--fresh deletes what --resume goes on with; give one of them")


def _num_trials(options: SearchOptions, proposer: Proposer) -> int | None:
    """How many trials there will be; None for as many as the hours allow."""
    most = proposer.num_configs()
    wanted = options.trials
    if wanted is None and options.hours is None and proposer.algorithm != "grid":
        wanted = MAX_TRIALS
    limits = [limit for limit in (wanted, most) if limit is not None]
    return min(limits) if limits else None


def _halving(options: SearchOptions, config: Config) -> Halving | None:
    """When trials may be stopped early; None where none is.

    Raises:
        ValueError: asha with several workers per trial.
    """
    if options.workers_per_trial > 1:
        if options.scheduler == "asha":
            raise ValueError(
                "--scheduler asha ends a trial from outside, and the workers of Ray Train would "
                "keep their cores; with --workers-per-trial take --scheduler none"
            )
        return None
    if options.scheduler == "none":
        return None
    first, last = config.train.validate_every, config.train.num_steps - 1
    if first > last:
        log.warning(
            "no trial is stopped early: its only validation is at the last of its %d steps; lower "
            "--train.validate-every (%d)",
            config.train.num_steps,
            first,
        )
        return None
    return Halving(first_step=first, last_step=last, factor=options.asha_factor)
