"""How sure a number is: intervals over samples, paired differences, and the correction for many tests at once."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped
from scipy.stats import binomtest, false_discovery_control, permutation_test
from torch import Tensor, float64

from headscope.errors import UsageError

Array = Tensor | np.ndarray


@dataclass(frozen=True)
class Difference:
    """Mean paired difference a - b, its bootstrap interval, and the two-sided p value of a sign-flip test."""

    mean: float
    low: float
    high: float
    p: float


def mean_interval(
    samples: Shaped[Array, " sample *rest"], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[Float[np.ndarray, "*rest"], Float[np.ndarray, "*rest"]]:
    """Low and high end of the interval of the mean over samples, for every element of the rest.

    Percentile bootstrap; for an element whose samples all are 0 or 1, Wilson's interval instead, since resampling 0 of
    20 would give [0, 0]; not for a 1 that stands alone among fractions, as where a file gives each head one number. Other
    samples that are all equal do give low = high, and so does a single one: that is no evidence of certainty. Memory is
    `resamples` times the size of the rest.
    """
    values = _numbers(samples)
    check_level(level)
    binary = np.isin(values, (0, 1)).all(0)
    if binary.all():
        return _wilson(values, level)
    low, high = _percentiles(bootstrap_means(values, resamples=resamples, seed=seed), level)
    if binary.any() and len(values) > 1:
        low[binary], high[binary] = _wilson(values[:, binary], level)
    return low, high


def bootstrap_means(
    samples: Shaped[Array, " sample *rest"], *, resamples: int = 2000, seed: int = 0
) -> Float[np.ndarray, " resample *rest"]:
    """Means of `resamples` bootstrap draws over samples; every element of the rest sees the same draws."""
    values = _numbers(samples)
    n = len(values)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    # Measured from the first sample, so that samples that are all equal give exactly that value.
    apart = (values - values[0]).reshape(n, -1)
    return values[0] + (counts.astype(float) @ apart / n).reshape(resamples, *values.shape[1:])


def crossed_interval(
    scores: Shaped[Array, "draw sample"], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Interval of the mean over random draws and samples, both resampled: what another set of either would give.

    A bootstrap over samples alone would call a mean of 0.6 certain where three draws of five score 1 on every sample and
    two score 0. Scores that are all equal give low = high, which is no evidence of certainty.
    """
    values = _numbers(scores)
    check_level(level)
    rng = np.random.default_rng(seed)
    draws, samples = (rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n for n in values.shape)
    means = np.einsum("rd,ds,rs->r", draws, values, samples, optimize=True)
    low, high = _percentiles(means, level)
    return float(low), float(high)


def proportion_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion; it has width even at 0 of n and n of n."""
    check_level(level)
    if n < 1 or not 0 <= successes <= n:
        raise UsageError(f"{successes} of {n} is not a proportion; give 0 <= successes <= n, with n at least 1")
    found = binomtest(successes, n).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def paired_difference(
    a: Shaped[Array, " a_sample"],
    b: Shaped[Array, " b_sample"],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Mean of a - b over the same samples, in the same order.

    The interval is always a percentile bootstrap, so it is degenerate (low = high) where all differences are equal.
    The p value flips the signs of the differences: exactly where there are at most `resamples` ways to, otherwise by
    drawing `resamples` of them, and then it cannot be smaller than about 1 / resamples.
    """
    if len(a) != len(b):
        raise UsageError(
            f"a has {len(a)} samples and b has {len(b)}; a paired difference needs the same samples in both"
        )
    apart = _numbers(a) - _numbers(b)
    check_level(level)
    low, high = _percentiles(bootstrap_means(apart, resamples=resamples, seed=seed), level)
    if len(apart) == 1:  # the other of the two ways to flip it is as far from 0
        return Difference(float(apart.mean()), float(low), float(high), 1.0)
    flipped = permutation_test(
        (apart,),
        lambda values, axis: values.mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=256,
        random_state=seed,
    )
    return Difference(float(apart.mean()), float(low), float(high), float(flipped.pvalue))


def false_discovery(p_values: Float[np.ndarray, "*test"]) -> Float[np.ndarray, "*test"]:
    """Benjamini-Hochberg adjusted p values over all tests together; NaN, a test not made, stays NaN."""
    made = ~np.isnan(p_values)
    if ((p_values[made] < 0) | (p_values[made] > 1)).any():
        raise UsageError(
            f"p values lie between 0 and 1; these reach from {np.nanmin(p_values)} to {np.nanmax(p_values)}"
        )
    adjusted = np.full(p_values.shape, np.nan)
    if made.any():
        adjusted[made] = false_discovery_control(p_values[made])
    return adjusted


def _numbers(samples: Array) -> np.ndarray:
    if isinstance(samples, Tensor):
        samples = samples.detach().to("cpu", float64).numpy()
    if not len(samples):
        raise UsageError("there are no samples; an interval needs at least one")
    return np.asarray(samples, dtype=float)


def check_level(level: float) -> None:
    """UsageError unless the level lies between 0 and 1."""
    if not 0 < level < 1:
        raise UsageError(f"level is {level}; a confidence level lies between 0 and 1, such as 0.95")


def _percentiles(means: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.asarray(low), np.asarray(high)


def _wilson(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    successes = values.sum(0).astype(int)
    counts, place = np.unique(successes, return_inverse=True)
    ends = np.array([proportion_interval(int(count), len(values), level) for count in counts])
    low, high = (end.reshape(successes.shape) for end in ends[place.ravel()].T)
    return low, high
