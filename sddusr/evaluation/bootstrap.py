"""Intervals of a mean, from resampling the images, and the training runs, it was measured on."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Interval(NamedTuple):
    """A mean and where it lies with the confidence that was asked for."""

    mean: float
    low: float
    high: float


def paired_bootstrap(
    differences: Float[np.ndarray, "n"], seed: int, num: int = 10_000, level: float = 0.95
) -> Interval:
    """Percentile interval of a mean difference, from resampling the pictures with replacement.

    `differences` holds one number a picture (ours minus bicubic, say); of `num` resampled means,
    the share `level` lies inside the interval. The same seed gives the same interval.

    Raises:
        ValueError: no difference, or one that is not finite.
    """
    differences = np.asarray(differences, dtype=np.float64)
    if differences.size == 0 or not np.isfinite(differences).all():
        raise ValueError(f"{differences.size} differences, need one or more, all of them finite")
    draws = np.random.default_rng(seed).integers(differences.size, size=(num, differences.size))
    tail = (1 - level) / 2
    low, high = np.quantile(differences[draws].mean(axis=1), [tail, 1 - tail])
    return Interval(float(differences.mean()), float(low), float(high))


def crossed_bootstrap(
    differences: Float[np.ndarray, "pictures runs"], seed: int, num: int = 10_000
) -> Interval:
    """`paired_bootstrap` of 95 % where each picture was scored in several training runs.

    Pictures and runs (seeds of a training) are resampled independently, since both were drawn: what
    holds for these pictures may not for others, nor what these runs gave for other seeds. With few
    runs the interval is narrower than it should be: of three, one draw in nine takes the same
    thrice.

    Raises:
        ValueError: no difference, or one that is not finite.
    """
    differences = np.asarray(differences, dtype=np.float64)
    if differences.size == 0 or not np.isfinite(differences).all():
        raise ValueError(f"{differences.shape} differences, need some, all of them finite")
    num_pictures, num_runs = differences.shape
    rng = np.random.default_rng(seed)
    # How often each draw takes each picture and each run: a mean is then a product.
    pictures = rng.multinomial(num_pictures, np.full(num_pictures, 1 / num_pictures), num)
    runs = rng.multinomial(num_runs, np.full(num_runs, 1 / num_runs), num)
    means = np.einsum("np,pr,nr->n", pictures, differences, runs) / differences.size
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(differences.mean()), float(low), float(high))
