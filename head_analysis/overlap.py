"""Whether two tasks use the same heads: overlap of their strongest heads over thresholds, beside that of chance.

Merullo et al. 2024 (arXiv 2310.08744) compare the top 2 % of heads of two circuits and report 78 %, which agrees with a
Jaccard index (25 shared of 32). One threshold can flatter, so several are given; and heads of two circuits may meet just
because both live in the same layers, so the baseline by default shuffles heads within their layers only.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from headscope.draws import Match
from headscope.errors import UsageError
from headscope.heads import Head
from headscope.scores import HeadScores

SHARES = (0.01, 0.02, 0.05, 0.10)


def circuit_overlap(
    a: HeadScores,
    b: HeadScores,
    *,
    shares: Sequence[float] = SHARES,
    match: Match = "layer",
    permutations: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """A row a share: the heads of largest |mean| in `a` and in `b`, and how many are the same.

    Columns: share, k (heads asked for, at least 1), in_a and in_b (fewer where other means are exactly 0), shared,
    `jaccard` (shared over those in either), `expected` (its mean when the heads of `b` are shuffled, within layers or
    `match="free"`), and `p`, the share of shuffles that do as well, the real order counted as one. UsageError for scores
    of different models.
    """
    if a.heads != b.heads:
        raise UsageError(
            f"the scores are of {len(a.heads)} and of {len(b.heads)} heads, which are not the same ones; compare two "
            "analyses of one model"
        )
    for share in shares:
        if not 0 < share <= 1:
            raise UsageError(f"share {share} is no share of the heads; give numbers above 0 up to 1, such as 0.02")
    size_a, size_b = (np.abs(scores.values[scores.exists].double().numpy()) for scores in (a, b))
    layers = np.array([head.layer for head in a.heads])
    shuffles = _shuffles(layers, match, permutations, np.random.default_rng(seed))
    rows = []
    for share in shares:
        k = max(1, round(share * len(size_a)))
        in_a, in_b = _strongest(size_a, k), _strongest(size_b, k)
        real = _jaccard(in_a, in_b[None])[0]
        chance = _jaccard(in_a, in_b[shuffles])
        counts = {"in_a": int(in_a.sum()), "in_b": int(in_b.sum()), "shared": int((in_a & in_b).sum())}
        p = (1 + int((chance >= real - 1e-12).sum())) / (1 + permutations)
        rows.append({"share": share, "k": k, **counts, "jaccard": real, "expected": chance.mean(), "p": p})
    return pd.DataFrame(rows)


def jaccard(a: Sequence[Head], b: Sequence[Head]) -> float:
    """Heads in both over heads in either; UsageError if there is none."""
    if not {*a, *b}:
        raise UsageError("the Jaccard index of two empty circuits is not defined; give at least one head")
    return len({*a} & {*b}) / len({*a, *b})


def _strongest(size: np.ndarray, k: int) -> np.ndarray:
    """Whether each head is among the k largest; a head without any effect never is."""
    chosen = np.zeros(len(size), bool)
    chosen[np.argsort(-size, kind="stable")[:k]] = True
    return chosen & (size > 0)


def _jaccard(one: np.ndarray, many: np.ndarray) -> np.ndarray:
    either = (one | many).sum(1)
    return np.where(either > 0, (one & many).sum(1) / np.maximum(either, 1), 0.0)


def _shuffles(layers: np.ndarray, match: Match, count: int, rng: np.random.Generator) -> np.ndarray:
    """[shuffle head]: which head's score each head gets."""
    groups = (
        [np.flatnonzero(layers == layer) for layer in np.unique(layers)]
        if match == "layer"
        else [np.arange(len(layers))]
    )
    shuffled = np.empty((count, len(layers)), int)
    for group in groups:
        shuffled[:, group] = rng.permuted(np.tile(group, (count, 1)), axis=1)
    return shuffled
