"""What a search varies: fields of the config, each with the values that it may take."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sddusr.config import Config, from_dict, to_dict

GRID_POINTS = 3
"""Values that a grid takes of a continuous range: both ends and the middle."""


@dataclass(frozen=True)
class Choices:
    """One of these."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """Any number between two; with `log`, every factor is as likely as any other."""

    low: float
    high: float
    log: bool = False

    def points(self, num: int) -> tuple[float, ...]:
        """Evenly spread values, both ends among them."""
        shares = [index / (num - 1) for index in range(num)]
        if self.log:
            return tuple(self.low * (self.high / self.low) ** share for share in shares)
        return tuple(self.low + (self.high - self.low) * share for share in shares)


Dimension = Choices | Range
Values = dict[str, Any]
"""Field of the config -> the value of a trial."""


@dataclass(frozen=True)
class Space:
    """Field of the config, as `model.dictionary.num_tokens` -> the values that it may take."""

    dimensions: Mapping[str, Dimension]

    @property
    def size(self) -> int | None:
        """How many configs there are; None where a range makes them endless."""
        counts = [len(d.values) if isinstance(d, Choices) else 0 for d in self.dimensions.values()]
        return math.prod(counts) if all(counts) else None

    def grid(self) -> Iterator[Values]:
        """All combinations, the last field's values first."""
        axes = [
            d.values if isinstance(d, Choices) else d.points(GRID_POINTS)
            for d in self.dimensions.values()
        ]
        for values in itertools.product(*axes):
            yield dict(zip(self.dimensions, values, strict=True))

    def short_names(self) -> dict[str, str]:
        """Field -> what tables and MLflow call it: the paper's letter, or as much of its end as
        tells it from the others."""
        return {field: SHORT_NAMES.get(field) or self._ending(field) for field in self.dimensions}

    def _ending(self, field: str) -> str:
        parts = field.split(".")
        endings = (".".join(parts[start:]) for start in reversed(range(len(parts))))
        return next(
            ending
            for ending in endings
            if sum(f".{other}".endswith(f".{ending}") for other in self.dimensions) == 1
        )

    def described(self) -> dict[str, Any]:
        """As JSON values, to tell one search from another."""
        return {
            field: {"choices": list(d.values)} if isinstance(d, Choices) else asdict(d)
            for field, d in self.dimensions.items()
        }


TOKENS = "model.dictionary.num_tokens"
ATTENTION = "model.dictionary.attention"
TEMPERATURE = "model.matching.temperature"
QUANTILE = "data.mask_quantile"
LAMBDA_1 = "losses.mask_weight"
LAMBDA_2 = "losses.perceptual_weight"
LAMBDA_3 = "losses.adversarial_weight"

SHORT_NAMES = {
    TOKENS: "N",
    LAMBDA_1: "lambda1",
    LAMBDA_2: "lambda2",
    LAMBDA_3: "lambda3",
    QUANTILE: "mask_quantile",
    TEMPERATURE: "temperature",
    ATTENTION: "attention",
}

DIMENSIONS: dict[str, Dimension] = {
    TOKENS: Choices((64, 128, 192, 256)),
    LAMBDA_1: Range(1e-4, 1e-1, log=True),
    LAMBDA_2: Range(1e-4, 1e-2, log=True),
    LAMBDA_3: Range(1e-5, 1e-3, log=True),
    QUANTILE: Range(0.2, 0.9),
    TEMPERATURE: Range(1e-2, 1.0, log=True),
    ATTENTION: Choices(("none", "sqrt_d", "cosine")),
}

SPACES: dict[str, tuple[str, ...]] = {
    "tokens": (TOKENS,),
    "losses": (LAMBDA_1, LAMBDA_2, LAMBDA_3),
    "mask": (QUANTILE,),
    "attention": (TEMPERATURE, ATTENTION),
    "all": tuple(DIMENSIONS),
}


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """A config with some of its fields set.

    Raises:
        ValueError: a value that the config does not take.
    """
    tree = to_dict(config)
    for field, value in values.items():
        *rooms, name = field.split(".")
        branch = tree
        for room in rooms:
            branch = branch[room]
        branch[name] = value
    return from_dict(Config, tree)
