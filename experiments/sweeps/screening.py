"""A first-order estimate of every head, and which heads to sweep exactly to see what it is worth."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from experiments.sweeps.rank_agreement import spearman, spearman_interval, spread_over_layers
from experiments.sweeps.sweep import Sweep
from headscope.errors import UsageError
from headscope.heads import Head
from headscope.scores import HeadScores


@dataclass(frozen=True)
class Screening:
    """An estimate, and the heads that are swept exactly because of it."""

    estimate: HeadScores
    top: tuple[Head, ...]
    """Heads of largest estimate of either sign, largest first."""
    random: tuple[Head, ...]
    """Heads drawn from all, spread over the layers, whatever their estimate: only they can judge it fairly."""

    @classmethod
    def of(cls, estimate: HeadScores, k: int, *, seed: int) -> "Screening":
        """The k best heads and k random ones; UsageError for a k that the model has no heads for, or below 3."""
        if not 3 <= k <= len(estimate.heads):
            raise UsageError(
                f"--screen {k}: give 3 to {len(estimate.heads)}, so many heads by estimate and as many random ones; a "
                "rank correlation needs 3"
            )
        values = estimate.values
        ranked = sorted(estimate.heads, key=lambda head: (-abs(float(values[head])), head))
        return cls(estimate, tuple(ranked[:k]), spread_over_layers(estimate.heads, k, seed=seed))

    @property
    def heads(self) -> tuple[Head, ...]:
        """All heads to sweep, by layer."""
        return tuple(sorted({*self.top, *self.random}))

    def table(self, exact: Sweep) -> pd.DataFrame:
        """A row for each swept head, largest exact effect first: `head`, `estimate`, `exact`, and why it was swept."""
        effects, values = exact.scores().values, self.estimate.values
        rows = [
            {
                "head": str(head),
                "estimate": float(values[head]),
                "exact": float(effects[head]),
                "among the top": head in self.top,
                "drawn at random": head in self.random,
            }
            for head in self.heads
        ]
        table = pd.DataFrame(rows)
        return table.sort_values("exact", key=lambda column: -column.abs(), kind="stable").reset_index(drop=True)

    def agreement(self, exact: Sweep) -> dict[str, float | int]:
        """Spearman's rank correlation of estimate and exact effect over the random heads, and its bootstrap interval.

        NaN where one of the two is the same for all of them.
        """
        table = self.table(exact)
        drawn = table[table["drawn at random"]]
        a, b = (drawn[column].to_numpy(np.float64) for column in ("exact", "estimate"))
        low, high = spearman_interval(a, b, level=0.95, resamples=2000, seed=0)
        return {
            "rank_correlation": float(spearman(a[None], b[None])[0]),
            "low": low,
            "high": high,
            "n_heads": len(drawn),
        }
