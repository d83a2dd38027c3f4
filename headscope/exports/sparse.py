"""Attention rows with only the keys that matter, and how much was left out; kept while the model runs, never n x n."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, float64

from headscope.errors import UsageError
from headscope.heads import Head, parse_heads
from headscope.hooks import Context, Site, Where
from headscope.model import HookedModel
from headscope.samples import Sample

DECIMALS = 5
"""Digits after the point that weights are kept with."""


@dataclass(frozen=True)
class SparseRows:
    """The rows of one head over one sample, a row for each of its tokens.

    `keys` are places in the sample, strongest first, with their `weights`. `dropped` is the sum of the weights that were
    left out; with the weights that were kept it makes up the row's sum, which is 1 in most models.
    """

    keys: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    dropped: tuple[float, ...]


def sparse_rows(
    model: HookedModel,
    sample: Sample | str,
    *,
    heads: Iterable[Head | str | tuple[int, int]] | None = None,
    min_weight: float = 0.01,
) -> dict[Head, SparseRows]:
    """For every head asked for (all of them unless given), the weights of at least `min_weight` in each row.

    One pass over the sample; at most 1 / `min_weight` keys of a row are kept. Weights are rounded to 5 digits.
    """
    if not 0 < min_weight <= 1:
        raise UsageError(f"min_weight is {min_weight}; give a share of attention above 0 and up to 1, such as 0.01")
    chosen = None if heads is None else parse_heads(heads)
    if chosen == ():
        raise UsageError("sparse rows were asked for of no heads; name at least one, or leave heads= out for all")
    keeper = _KeepSparse(Where(heads=chosen), min_weight)
    last = 1 if "logits_to_keep" in model.forward_arguments else None
    with model.hooks(keeper):
        model.forward([sample], last=last)
    return {head: _joined(keeper.kept[head]) for head in sorted(keeper.kept)}


@dataclass(frozen=True)
class _KeepSparse:
    """Looks at every block of rows as it is made, keeps what is large in it, and changes nothing."""

    where: Where
    min_weight: float
    kept: dict[Head, list[SparseRows]] = field(default_factory=dict, compare=False)
    site: ClassVar[Site] = "pattern"

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        places = ctx.key_positions[0].to(act.device)
        for head, rows in zip(ctx.heads, act.detach()[0], strict=True):
            self.kept.setdefault(Head(ctx.layer, head), []).append(_sparse(rows, places, self.min_weight))
        return act


def _sparse(rows: Float[Tensor, "query key"], places: Int[Tensor, " key"], least: float) -> SparseRows:
    query, key = ((rows >= least) & (places >= 0)).nonzero(as_tuple=True)
    weights, keys, at = (part.cpu().numpy() for part in (rows[query, key].double(), places[key], query))
    strongest = np.lexsort((-weights, at))
    keys, weights, at = keys[strongest], weights[strongest], at[strongest]
    dropped = rows.sum(1, dtype=float64).cpu().numpy() - np.bincount(at, weights, len(rows))
    ends = np.bincount(at, minlength=len(rows)).cumsum()[:-1]
    return SparseRows(
        tuple(tuple(part.tolist()) for part in np.split(keys, ends)),
        tuple(tuple(part.tolist()) for part in np.split(weights.round(DECIMALS), ends)),
        tuple(dropped.clip(0).round(DECIMALS).tolist()),
    )


def _joined(parts: Sequence[SparseRows]) -> SparseRows:
    keys = tuple(row for part in parts for row in part.keys)
    weights = tuple(row for part in parts for row in part.weights)
    return SparseRows(keys, weights, tuple(row for part in parts for row in part.dropped))
