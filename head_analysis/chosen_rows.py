"""Attention rows of chosen queries, other ones for every sample of a batch: never n x n."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.engine.inputs import AttentionInputs
from headscope.engine.rows import pattern_rows
from headscope.hooks import Context, Where

Use = Callable[[Float[Tensor, "head row key"], AttentionInputs, Context, int], Tensor]
"""Makes of one sample's rows what is to be kept; gets the inputs of that sample alone, the place, and its index."""


@dataclass(frozen=True)
class ChosenRows:
    """Recomputes the rows of the queries at `places` of each sample, layer by layer, and keeps what `use` makes of them.

    Costs these rows times the keys.
    """

    places: Sequence[Sequence[int]]
    use: Use
    kept: dict[int, list[Tensor]] = field(default_factory=dict, compare=False, repr=False)

    where: ClassVar[Where] = Where()

    def read(self, x: AttentionInputs, ctx: Context) -> None:
        """Works out the rows of one layer."""
        found = []
        for i, places in enumerate(self.places):
            columns = torch.tensor(list(places), device=x.query.device) + int((ctx.positions[i] < 0).sum())
            alone = _alone(x, i)
            found.append(self.use(pattern_rows(alone, None, columns)[0], alone, ctx, i).cpu())
        self.kept[ctx.layer] = found

    def of_sample(self, index: int) -> dict[int, Tensor]:
        """Layer -> what was kept of one sample."""
        return {layer: found[index] for layer, found in self.kept.items()}


def _alone(x: AttentionInputs, index: int) -> AttentionInputs:
    one = slice(index, index + 1)
    mask = x.mask if x.mask is None or x.mask.shape[0] == 1 else x.mask[one]
    bias = x.bias if x.bias is None or x.bias.shape[0] == 1 else x.bias[one]
    return replace(x, query=x.query[one], key=x.key[one], value=x.value[one], mask=mask, bias=bias)
