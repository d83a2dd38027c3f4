"""Marks sink tokens while a prompt is read, for what is measured in the same pass."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from head_analysis.sinks import sink_tokens
from headscope.hooks import Context, Site, Where


@dataclass(frozen=True)
class SinkMarks:
    """Notes in `found` which columns of a batch are sinks at the input of every layer: layer -> [sample column].

    For passes without a cache, whose columns are those of the keys.
    """

    dims: tuple[int, ...]
    tau: float
    found: dict[int, Bool[Tensor, "sample column"]] = field(default_factory=dict, compare=False, repr=False)

    site: ClassVar[Site] = "resid_pre"
    where: ClassVar[Where] = Where()

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        """Marks the sinks; the states stay as they are."""
        self.found[ctx.layer] = sink_tokens(act, self.dims, self.tau).cpu() & (ctx.positions >= 0)
        return act

    def of_sample(self, index: int) -> Bool[Tensor, "layer token"]:
        """Sinks of one sample among the columns of its batch."""
        return torch.stack([self.found[layer][index] for layer in sorted(self.found)])
