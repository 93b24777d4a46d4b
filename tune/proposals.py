"""What a search tries next: a function of its seed and of what its trials showed, nothing else.

So a search that was killed proposes what it would have proposed, given the same results.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from tune.space import Choices, Range, Space, Values
from tune.trials import Trial

Algorithm = Literal["optuna", "random", "grid"]

NUM_RANDOM = 5
"""Trials that Optuna draws at random before it learns from them."""

MAX_DRAWS = 50
"""Draws of a config that was not tried yet, before the first such one of the grid is taken."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Proposer:
    """Proposes configs; pure."""

    space: Space
    algorithm: Algorithm
    seed: int

    def propose(self, number: int, trials: Sequence[Trial]) -> Values:
        """The values of trial `number`, given the trials before it."""
        if self.algorithm == "grid":
            return next(islice(self.space.grid(), number, None))
        tried = [trial.values for trial in trials]
        for attempt in range(MAX_DRAWS):
            values = self._draw(number, attempt, trials)
            if values not in tried:
                return values
        return next(values for values in self.space.grid() if values not in tried)

    def num_configs(self) -> int | None:
        """How many trials make sense: the same config again would give the same result."""
        if self.algorithm == "grid":
            return sum(1 for _ in self.space.grid())
        return self.space.size

    def _draw(self, number: int, attempt: int, trials: Sequence[Trial]) -> Values:
        digest = hashlib.sha256(f"{self.seed} {number} {attempt}".encode()).digest()
        seed = int.from_bytes(digest[:4])
        if self.algorithm == "random":
            sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed)
        else:
            sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=NUM_RANDOM, constant_liar=True
            )
        study = study_of(self.space, trials, sampler)
        drawn = study.ask(distributions(self.space)).params
        return {field: _value(self.space, field, drawn[field]) for field in self.space.dimensions}


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Optuna's; of choices, their numbers, since it takes only plain values."""
    return {
        field: CategoricalDistribution(range(len(dimension.values)))
        if isinstance(dimension, Choices)
        else FloatDistribution(dimension.low, dimension.high, log=dimension.log)
        for field, dimension in space.dimensions.items()
    }


def study_of(
    space: Space, trials: Sequence[Trial], sampler: optuna.samplers.BaseSampler | None = None
) -> optuna.Study:
    """Trials as Optuna knows them, the best being the highest."""
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in trials:
        study.add_trial(_frozen(space, trial))
    return study


def _frozen(space: Space, trial: Trial) -> FrozenTrial:
    """Unfinished trials count as running. Failed ones count as stopped without a score, which is
    the worst: Optuna would forget failures, and propose them again."""
    params = {field: _param(space, field, value) for field, value in trial.values.items()}
    known = {"params": params, "distributions": distributions(space)}
    if trial.status == "open":
        return create_trial(state=TrialState.RUNNING, **known)
    if trial.status == "finished" and trial.score is not None:
        return create_trial(state=TrialState.COMPLETE, value=trial.score, **known)
    seen = {} if trial.status == "failed" else {p.step: p.score for p in trial.curve}
    return create_trial(state=TrialState.PRUNED, intermediate_values=seen, **known)


def _param(space: Space, field: str, value: Any) -> Any:
    dimension = space.dimensions[field]
    return value if isinstance(dimension, Range) else dimension.values.index(value)


def _value(space: Space, field: str, param: Any) -> Any:
    dimension = space.dimensions[field]
    return param if isinstance(dimension, Range) else dimension.values[param]
