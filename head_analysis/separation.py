"""How well a number tells two kinds of word apart: area under the ROC curve, over samples that hold several words."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from headscope.clusters import percentiles, ratio
from headscope.errors import UsageError
from headscope.tables import html_table


@dataclass(frozen=True)
class Separation:
    """Chance that a positive word has the larger value than a negative one (0.5: no separation), and its control."""

    auc: float
    low: float
    high: float
    """Bootstrap interval over samples."""
    shuffled: float
    """Mean AUC with labels shuffled within samples: what differences between samples alone give."""
    shuffled_low: float
    shuffled_high: float
    p: float
    """Share of shuffles at least as far from their mean as the AUC is; two-sided, and never 0."""
    positives: int
    negatives: int
    samples: int

    def _repr_html_(self) -> str:
        return html_table(pd.DataFrame([vars(self)]), "how well a number tells two kinds of word apart")


def measure_separation(
    table: pd.DataFrame,
    positive: str | Collection[str],
    negative: str | Collection[str],
    *,
    value: str = "token_vhd",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Separation:
    """AUC of a column for rows of the `positive` kinds against those of the `negative` kinds.

    The table has a row a word, with columns `sample`, `kind` and the value. UsageError if either kind is missing.
    """
    pos, neg = ({kinds} if isinstance(kinds, str) else set(kinds) for kinds in (positive, negative))
    rows = table[table["kind"].isin(pos | neg)]
    labels = rows["kind"].isin(pos).to_numpy()
    if labels.all() or not labels.any():
        counts = table["kind"].value_counts().to_dict()
        raise UsageError(
            f"both {', '.join(sorted(pos))} and {', '.join(sorted(neg))} are needed to compare them, and the table holds "
            f"{counts}; give more answers"
        )
    values = rows[value].to_numpy(float)
    names, sample = np.unique(rows["sample"].to_numpy(), return_inverse=True)
    rng = np.random.default_rng(seed)
    auc = float(roc_auc_score(labels, values))
    low, high = percentiles(_resampled(labels, values, sample, rng, resamples), level)
    ranks, n = rankdata(values), int(labels.sum())
    sums = np.array([ranks[_shuffled(labels, sample, rng)].sum() for _ in range(resamples)])
    shuffled = (sums - n * (n + 1) / 2) / (n * (len(labels) - n))
    centre = float(shuffled.mean())
    as_far = int((np.abs(shuffled - centre) >= abs(auc - centre) - 1e-12).sum())
    p = (as_far + 1) / (resamples + 1)
    ends = percentiles(shuffled, level)
    return Separation(auc, low, high, centre, *ends, p, n, len(labels) - n, len(names))


def _resampled(
    labels: np.ndarray, values: np.ndarray, sample: np.ndarray, rng: np.random.Generator, resamples: int
) -> np.ndarray:
    """AUC of whole samples drawn again, from the pairs that each two samples win; NaN for a draw that lacks a kind."""
    n = int(sample.max()) + 1
    high, low, of_low = values[labels], values[~labels], sample[~labels]
    won = np.zeros((n, n))
    for one in range(n):
        mine = high[sample[labels] == one, None]
        won[one] = np.bincount(of_low, ((mine > low) + 0.5 * (mine == low)).sum(0), minlength=n)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)
    pairs = (counts @ np.bincount(sample[labels], minlength=n)) * (counts @ np.bincount(of_low, minlength=n))
    return ratio(((counts @ won) * counts).sum(1), pairs)


def _shuffled(labels: np.ndarray, sample: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels exchanged within each sample."""
    places = np.argsort(sample, kind="stable")
    drawn = np.lexsort((rng.random(len(labels)), sample))
    mixed = labels.copy()
    mixed[places] = labels[drawn]
    return mixed
