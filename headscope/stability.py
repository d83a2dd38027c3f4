"""Whether a ranking of heads would come out again: over other samples of the same kind, and with fewer of them.

Overlap@k is the share of the top k that two rankings have in common, 0 to 1. Kendall's tau compares the whole
rankings, -1 to 1; where most heads hardly differ it is low even if the top is certain. Chance alone gives overlap k /
heads and tau 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, wilcoxon

from headscope.errors import UsageError
from headscope.evidence import false_discovery
from headscope.scores import HeadScores

Against = Literal["greater", "less", "two-sided"]


@dataclass(frozen=True)
class Agreement:
    """How well rankings agree: means over draws, and the interval that holds `level` of the draws."""

    k: int
    overlap: float
    overlap_interval: tuple[float, float]
    tau: float
    tau_interval: tuple[float, float]


def bootstrap_agreement(
    scores: HeadScores, k: int, *, draws: int = 200, level: float = 0.95, seed: int = 0
) -> Agreement:
    """The ranking by all samples against rankings by as many samples drawn with replacement.

    A bootstrap draw shares samples with the whole, so this is the kinder measure of the two.
    """
    values = _checked(scores, k)
    rng = np.random.default_rng(seed)
    whole = values.mean(0)
    others = [values[rng.integers(len(values), size=len(values))].mean(0) for _ in range(draws)]
    return _agreement([(whole, other) for other in others], k, level)


def split_half_agreement(
    scores: HeadScores, k: int, *, draws: int = 200, level: float = 0.95, seed: int = 0
) -> Agreement:
    """Rankings by one half of the samples against those by the other half, drawn anew each time; no sample in both."""
    values = _checked(scores, k)
    half = len(values) // 2
    if half < 1:
        raise UsageError(f"{len(values)} sample cannot be split in halves; score at least 2")
    return _agreement(_disjoint(values, half, draws, np.random.default_rng(seed)), k, level)


@dataclass(frozen=True)
class SamplesNeeded:
    """Agreement of two rankings of n samples each, for growing n, and the smallest n that is enough."""

    table: pd.DataFrame
    """A row for each n: overlap and tau, mean over draws."""
    level: float
    enough: int | None
    """Smallest n from which on the overlap is at least `level`; None if half of the samples do not reach it."""


def samples_needed(
    scores: HeadScores, k: int, *, level: float = 0.8, sizes: Sequence[int] = (), draws: int = 100, seed: int = 0
) -> SamplesNeeded:
    """How many samples two people would each need to find the same top k, by disjoint subsamples of the samples at hand.

    By default n doubles from 2 to half of the samples, which is as far as disjoint ones can show.
    """
    values = _checked(scores, k)
    half = len(values) // 2
    wanted = sorted(set(sizes)) or [*(2**i for i in range(1, half.bit_length()) if 2**i < half), half]
    if not 0 < level <= 1:
        raise UsageError(f"level is {level}; ask for an overlap above 0 and up to 1, such as 0.8")
    if half < 1 or not 1 <= wanted[0] <= wanted[-1] <= half:
        raise UsageError(
            f"sizes {wanted} asked for, but {len(values)} samples give disjoint subsamples of 1 to {half}; give sizes in "
            "that range, or score more samples"
        )
    rng = np.random.default_rng(seed)
    rows = []
    for n in wanted:
        found = _agreement(_disjoint(values, n, draws, rng), k, 0.95)
        rows.append({"n": n, "overlap": found.overlap, "tau": found.tau})
    table = pd.DataFrame(rows)
    short = np.flatnonzero(table["overlap"] < level)
    first = int(short[-1]) + 1 if len(short) else 0
    return SamplesNeeded(table, level, int(table["n"][first]) if first < len(table) else None)


def significant_heads(
    scores: HeadScores, *, null: float | HeadScores = 0.0, against: Against = "greater", rate: float = 0.05
) -> pd.DataFrame:
    """Which heads differ from `null`, a number or scores of the same samples, at a false-discovery rate over all heads.

    A row a head, by p: layer, head, name, value (mean difference), p of Wilcoxon's signed-rank test over samples, `fdr`
    (Benjamini-Hochberg adjusted) and `found` (fdr at most `rate`). The test asks whether differences lie evenly about 0;
    one without any difference has p = 1. n samples cannot give a p below 2^-n, so few samples find no head among many.
    """
    values = _all(scores)
    if isinstance(null, HeadScores):
        if null.heads != scores.heads or null.n != scores.n:
            raise UsageError(
                f"{scores.n} samples of {len(scores.heads)} heads cannot be paired with {null.n} samples of "
                f"{len(null.heads)} heads; give scores of the same samples and model"
            )
        values = values - _all(null)
    else:
        values = values - null
    p = np.array([_p(column, against) for column in values.T])
    fdr = false_discovery(p)
    table = pd.DataFrame(
        {
            "layer": [head.layer for head in scores.heads],
            "head": [head.head for head in scores.heads],
            "name": [str(head) for head in scores.heads],
            "value": values.mean(0),
            "p": p,
            "fdr": fdr,
            "found": fdr <= rate,
        }
    )
    return table.sort_values("p", kind="stable").reset_index(drop=True)


def _p(differences: np.ndarray, against: Against) -> float:
    if not differences.any():
        return 1.0
    return float(wilcoxon(differences, alternative=against).pvalue)


def _all(scores: HeadScores) -> np.ndarray:
    return scores.samples[:, scores.exists].double().numpy()


def _checked(scores: HeadScores, k: int) -> np.ndarray:
    values = _all(scores)
    if not 1 <= k <= values.shape[1]:
        raise UsageError(f"k is {k}, but there are {values.shape[1]} heads; use a k from 1 to {values.shape[1]}")
    return values


def _disjoint(values: np.ndarray, n: int, draws: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    pairs = []
    for _ in range(draws):
        order = rng.permutation(len(values))
        pairs.append((values[order[:n]].mean(0), values[order[n : 2 * n]].mean(0)))
    return pairs


def _agreement(pairs: Sequence[tuple[np.ndarray, np.ndarray]], k: int, level: float) -> Agreement:
    if not pairs or not 0 < level < 1:
        raise UsageError(f"{len(pairs)} draws at level {level}: ask for at least 1 draw, and a level between 0 and 1")
    overlaps = np.array([len(np.intersect1d(_top(a, k), _top(b, k))) / k for a, b in pairs])
    taus = np.nan_to_num(np.array([kendalltau(a, b).statistic for a, b in pairs]))  # nan: all heads alike
    ends = [(1 - level) / 2, (1 + level) / 2]
    (low, high), (tau_low, tau_high) = (np.quantile(found, ends).tolist() for found in (overlaps, taus))
    return Agreement(k, float(overlaps.mean()), (low, high), float(taus.mean()), (tau_low, tau_high))


def _top(values: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-values, kind="stable")[:k]
