"""How unevenly a score is spread over heads: one number for "a few heads do it all"."""

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.errors import UsageError
from headscope.scores import HeadScores


def gini(values: Float[Tensor, " value"]) -> float:
    """Gini index of amounts: 0 if all are equal, 1 - 1/n if one has everything.

    UsageError for negative or missing values, and where all are 0.
    """
    if not len(values) or not (values >= 0).all() or not (values > 0).any():
        raise UsageError("a Gini index needs amounts of 0 or more, at least one above 0; leave missing heads out")
    ordered = values.double().sort().values
    n = len(ordered)
    rank = torch.arange(1, n + 1, dtype=torch.float64)
    return float((2 * (rank * ordered).sum() / ordered.sum() - (n + 1)) / n)


def head_gini(scores: HeadScores) -> float:
    """Gini index of the means of all heads that exist."""
    return gini(scores.values[scores.exists])


def top_share(scores: HeadScores, k: int) -> float:
    """Share of the sum over all heads that the k heads of largest mean hold; k / heads if all are equal."""
    values = scores.values[scores.exists].double()
    if not 1 <= k <= len(values):
        raise UsageError(f"k is {k}, but there are {len(values)} heads; use a k from 1 to {len(values)}")
    if not (values >= 0).all() or not (values > 0).any():
        raise UsageError("a share of the sum needs means of 0 or more, at least one above 0")
    return float(values.topk(k).values.sum() / values.sum())
