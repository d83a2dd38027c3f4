"""Each query keeps the keys it attends to most, and no others: the best that any sparse pattern of that size can do.

The edit is one of the scores, so rows sum to one over the keys that are kept (in models with a learned sink beside the
keys, gpt-oss, over these and the sink), and "off" means that a key is not there. Choosing by the exact scores costs as
much as full attention: methods that approximate the choice, such as HiP (Lee et al. 2024, arXiv 2406.09827), lose what
this loses and something more.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from headscope.bridge_hooks import ForBridges
from headscope.errors import UsageError
from headscope.heads import Head, parse_heads
from headscope.hooks import Context, Phase, Site, Where


@dataclass(frozen=True)
class TopKeys(ForBridges):
    """Each query sees only its `k` keys of largest score, head by head; all of them where it sees no more than k.

    In prefill and decode unless a phase is named, in all heads or the given ones. UsageError for a k below 1.
    """

    k: int
    heads: tuple[Head, ...] | None = None
    layers: tuple[int, ...] | None = None
    phase: Phase | None = None

    def __init__(
        self,
        k: int,
        *,
        heads: "str | Iterable[Head | str | tuple[int, int]] | None" = None,
        layers: Iterable[int] | None = None,
        phase: Phase | None = None,
    ) -> None:
        given = None if heads is None else parse_heads(heads)
        for name, value in zip(
            self.__dataclass_fields__, (k, given, None if layers is None else tuple(layers), phase), strict=True
        ):
            object.__setattr__(self, name, value)
        _ = self.where  # refuses a phase that is not known
        if k < 1:
            raise UsageError(f"the top {k} keys were asked for; a query must keep at least 1")

    @property
    def site(self) -> Site:
        """`scores`."""
        return "scores"

    @property
    def where(self) -> Where:
        """The heads, layers and phase."""
        return Where(heads=self.heads, layers=self.layers, phase=self.phase)

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        """The scores, minus infinity for keys that are not kept."""
        if self.k >= act.shape[-1]:
            return act
        assert ctx.visible is not None  # always given at `scores`
        seen = act.masked_fill(~ctx.visible, -torch.inf)
        kept = torch.zeros_like(act, dtype=torch.bool).scatter_(-1, seen.topk(self.k, dim=-1).indices, True)
        return seen.masked_fill(~kept, -torch.inf)
