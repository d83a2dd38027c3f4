"""How sure a metric of sums is when its items come in clusters: several questions about one image, mentions in a caption.

A metric such as precision or the harmonic mean of two rates is a function of counts summed over all items, so its
interval cannot come from means over items. Clusters are drawn again whole, since their items are not independent, and
one set of draws serves every condition, so that differences between conditions are paired.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from headscope.errors import UsageError
from headscope.evidence import Difference, check_level, proportion_interval

Sums = Float[np.ndarray, "*batch"]


@dataclass(frozen=True)
class Metric:
    """A number computed from sums of per-item counts.

    `of` takes the sums of the columns named in `counts`, in that order, as arrays of any shape. `proportion` says that
    the metric lies between 0 and 1, as lengths do not.
    """

    name: str
    counts: tuple[str, ...]
    of: Callable[..., np.ndarray]
    proportion: bool = True

    def value(self, sums: Float[np.ndarray, "*batch count"]) -> Float[np.ndarray, "*batch"]:
        """The metric for each row of sums; NaN where it is 0 / 0."""
        return np.asarray(self.of(*np.moveaxis(sums, -1, 0)), float)

    def overall(self, counts: Float[np.ndarray, "cluster count"]) -> float:
        """The metric of all clusters together; NaN where it is 0 / 0."""
        return float(self.value(counts.sum(0, keepdims=True))[0])


def ratio(top: Sums, bottom: Sums) -> Sums:
    """The quotient, NaN where the bottom is 0."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom != 0)


def harmonic_mean(a: Sums, b: Sums) -> Sums:
    """2 a b / (a + b), 0 where both are 0."""
    return np.where(a + b == 0, 0.0, 2 * a * b / np.where(a + b == 0, 1, a + b))


def cluster_sums(items: pd.DataFrame, cluster: str) -> pd.DataFrame:
    """Sums of every other column over each cluster, a row a cluster, sorted; UsageError if a count is missing."""
    missing = items.columns[items.isna().any()]
    if len(missing):
        raise UsageError(f"column {missing[0]!r} has items without a number; give every item a count, 0 included")
    return items.groupby(cluster, sort=True).sum()


class Estimate(NamedTuple):
    """A metric and its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClusterBootstrap:
    """How often each cluster is drawn in every resample, and which ones are exchanged; made by `ClusterBootstrap.draw`.

    Sums are tables as `cluster_sums` makes them, of the same clusters in the same order. A resample in which a metric is
    0 / 0 is left out of its interval. Costs one product of resamples x clusters with clusters x counts a metric.
    """

    weights: Float[np.ndarray, "resample cluster"]
    swaps: Float[np.ndarray, "exchange cluster"]
    """1 where a cluster changes sides: every way there is where those are not more than the resamples, else drawn."""
    seed: int = 0

    @classmethod
    def draw(cls, clusters: int, *, resamples: int = 2000, seed: int = 0) -> "ClusterBootstrap":
        """As many draws of clusters with replacement; UsageError if there is none to draw from."""
        if clusters < 1 or resamples < 1:
            raise UsageError(f"{resamples} resamples of {clusters} clusters; there must be at least 1 of both")
        rng = np.random.default_rng(seed)
        weights = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)
        if _countable(clusters, resamples):
            swaps = (np.arange(2**clusters)[:, None] >> np.arange(clusters)) & 1
        else:
            swaps = rng.integers(0, 2, (resamples, clusters))
        return cls(weights.astype(float), swaps.astype(float), seed)

    def draws(self, metric: Metric, sums: pd.DataFrame) -> Float[np.ndarray, " resample"]:
        """The metric in every resample."""
        return metric.value(self.weights @ self._counts(metric, sums))

    def estimate(self, metric: Metric, sums: pd.DataFrame, *, level: float = 0.95) -> Estimate:
        """The metric and its percentile interval.

        Where a proportion is 0 or 1 in every cluster, resampling has nothing to vary; then it is Wilson's interval with
        the clusters that have a value as n, which is too wide rather than too narrow.
        """
        counts = self._counts(metric, sums)
        value = metric.overall(counts)
        apart = metric.value(counts)
        seen = apart[~np.isnan(apart)]
        if metric.proportion and len(seen) and value in (0, 1) and (seen == value).all():
            low, high = proportion_interval(int(value) * len(seen), len(seen), level)
        else:
            low, high = percentiles(self.draws(metric, sums), level)
        return Estimate(value, low, high)

    def difference(self, metric: Metric, a: pd.DataFrame, b: pd.DataFrame, *, level: float = 0.95) -> Difference:
        """Metric of a less that of b on the same clusters, with its percentile interval.

        The p value exchanges a and b in whole clusters: in every way there is where those are not more than the
        resamples, otherwise in as many drawn ways, and then it cannot be smaller than about 1 / resamples.
        """
        first, second = self._counts(metric, a), self._counts(metric, b)
        found = metric.overall(first) - metric.overall(second)
        low, high = percentiles(self.draws(metric, a) - self.draws(metric, b), level)
        return Difference(found, low, high, self._exchanged(metric, first, second, found))

    def over_draws(
        self,
        metric: Metric,
        family: Sequence[pd.DataFrame],
        baseline: pd.DataFrame | None = None,
        *,
        level: float = 0.95,
    ) -> Estimate:
        """Mean of the metric over conditions drawn at random (less the baseline's), draws and clusters both resampled.

        Never narrower than with these very draws, over clusters alone.
        """
        values = [metric.overall(self._counts(metric, sums)) for sums in family]
        draws = np.stack([self.draws(metric, sums) for sums in family])
        if baseline is not None:
            values = [value - metric.overall(self._counts(metric, baseline)) for value in values]
            draws = draws - self.draws(metric, baseline)
        rng = np.random.default_rng(self.seed)
        chosen = rng.multinomial(len(draws), np.full(len(draws), 1 / len(draws)), size=draws.shape[1]) / len(draws)
        crossed, alone = percentiles((chosen * draws.T).sum(1), level), percentiles(draws.mean(0), level)
        return Estimate(float(np.mean(values)), min(crossed[0], alone[0]), max(crossed[1], alone[1]))

    def _exchanged(self, metric: Metric, a: np.ndarray, b: np.ndarray, found: float) -> float:
        moved = self.swaps @ (b - a)
        apart = metric.value(a.sum(0) + moved) - metric.value(b.sum(0) - moved)
        apart = apart[~np.isnan(apart)]
        if np.isnan(found) or not len(apart):
            return np.nan
        as_far = int((np.abs(apart) >= abs(found) - 1e-12).sum())
        exact = _countable(len(a), len(self.weights))
        return as_far / len(apart) if exact else (as_far + 1) / (len(apart) + 1)

    def _counts(self, metric: Metric, sums: pd.DataFrame) -> np.ndarray:
        if len(sums) != self.weights.shape[1]:
            raise UsageError(f"{len(sums)} clusters were given, but {self.weights.shape[1]} are resampled; draw anew")
        return sums[list(metric.counts)].to_numpy(float)


def _countable(clusters: int, resamples: int) -> bool:
    return clusters < 60 and 2**clusters <= resamples


def percentiles(draws: Float[np.ndarray, " resample"], level: float) -> tuple[float, float]:
    """The middle `level` of the draws, NaN left out; NaN if nothing is left."""
    check_level(level)
    seen = draws[~np.isnan(draws)]
    if not len(seen):
        return np.nan, np.nan
    low, high = np.quantile(seen, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
