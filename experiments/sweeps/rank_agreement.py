"""How well two numbers of every head agree in rank, judged by a random part of the heads."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from headscope.errors import UsageError
from headscope.heads import Head


def spread_over_layers(heads: Sequence[Head], count: int, *, seed: int) -> tuple[Head, ...]:
    """Random heads, as equal a number of each layer as can be; all of them where there are no more."""
    if count < 3:
        raise UsageError(f"{count} heads asked for; a rank correlation needs at least 3")
    rng = np.random.default_rng(seed)
    layers = sorted({head.layer for head in heads})
    queues = [rng.permutation([head.head for head in heads if head.layer == layer]).tolist() for layer in layers]
    turns = max(map(len, queues))
    order = [
        Head(layers[i], queues[i][turn])
        for turn in range(turns)
        for i in rng.permutation(len(layers)).tolist()
        if turn < len(queues[i])
    ]
    return tuple(sorted(order[:count]))


def spearman(a: Float[np.ndarray, "draw head"], b: Float[np.ndarray, "draw head"]) -> Float[np.ndarray, " draw"]:
    """Rank correlation of each row; NaN where a row is all alike."""
    ranks = [rankdata(values, axis=1) for values in (a, b)]
    x, y = (rank - rank.mean(1, keepdims=True) for rank in ranks)
    size = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.divide((x * y).sum(1), size, out=np.full(len(a), np.nan), where=size > 0)


def spearman_interval(
    a: Float[np.ndarray, " head"], b: Float[np.ndarray, " head"], *, level: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Percentile bootstrap over the heads; draws in which all heads are alike are left out, NaN if all are."""
    draws = np.random.default_rng(seed).integers(len(a), size=(resamples, len(a)))
    found = spearman(a[draws], b[draws])
    if np.isnan(found).all():
        return np.nan, np.nan
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
