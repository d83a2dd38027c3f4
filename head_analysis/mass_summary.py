"""Attention mass on groups of keys, summed up over queries while the pass runs: a few numbers a head, in O(n) memory."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headscope.engine.inputs import AttentionInputs
from headscope.engine.mass import group_mass
from headscope.hooks import Context, Where

Groups = Callable[[Context], Bool[Tensor, "batch key group"]]
Summary = Callable[[Float[Tensor, "batch head query group"], Context], Float[Tensor, "batch head number"]]


@dataclass(frozen=True)
class MassSummary:
    """Asks for groups of keys in every layer, and keeps what `summary` makes of the mass on them."""

    groups: Groups
    summary: Summary
    kept: dict[int, Float[Tensor, "batch head number"]] = field(default_factory=dict, compare=False, repr=False)

    where: ClassVar[Where] = Where()

    def read(self, x: AttentionInputs, ctx: Context) -> None:
        """Works out the mass in one layer and what is kept of it."""
        mass = group_mass(x, self.groups(ctx).to(x.query))
        self.kept[ctx.layer] = self.summary(mass.float().cpu(), ctx)

    def of_sample(self, index: int) -> dict[int, Float[Tensor, "number head"]]:
        """Layer -> the numbers of one sample's heads."""
        return {layer: numbers[index].T for layer, numbers in self.kept.items()}


def mean_over(
    mass: Float[Tensor, "batch head query *group"], queries: Bool[Tensor, "batch query"]
) -> Float[Tensor, "batch head *group"]:
    """Mean over chosen queries; NaN for a sample that has none."""
    weights = queries.to(mass) / queries.sum(1, keepdim=True)
    return torch.einsum("bhq...,bq->bh...", mass, weights)
