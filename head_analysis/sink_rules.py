"""Which keys are attention sinks of a head, judged by the attention that they get from the queries that see them.

A[k] is the attention that key k gets, averaged over the queries that can see it: under a causal mask its own and all
later ones, in a sliding window as many as the window holds. Yu et al. 2024 (arXiv 2406.15765) call k a sink of a head if
A[k] > alpha / N with alpha = 5 (as others report it) for N tokens; their released code takes an absolute 0.1 instead,
which is five times the uniform share at 50 tokens and fifty times at 500. Both are offered, as `paper` and `released`.
With the paper's, heads that have no sink get some: early keys have short rows to share, so that the second token passes
from 221 tokens on in a head that attends to all alike; late ones are seen by few queries, so that the last fifth of a
text passes in a head that attends to the previous token.

The default asks for more than either explains. `above_even`: what k gets over all queries is more than alpha times what
it would get if every query spread its attention evenly over the keys it sees, and more than alpha, since a key gets 1 in
the mean of any head. It is never laxer than the paper's. In a text of N tokens the first token then needs a mean of about
alpha ln N / N: 0.067 at 512 tokens, 0.37 at 64; in texts of fewer than 18 it cannot pass.

A mean over few queries is none: with any rule a key seen by fewer than `min_queries` is no sink.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headscope.engine.blocks import BLOCK_ELEMENTS
from headscope.engine.inputs import AttentionInputs
from headscope.errors import UsageError
from headscope.hooks import Context, Where

Variant = Literal["above_even", "paper", "released"]


@dataclass(frozen=True)
class SinkRule:
    """When a key is a sink of a head. UsageError for numbers out of range."""

    variant: Variant = "above_even"
    alpha: float | int = 5
    threshold: float | int = 0.1
    """Of `released` alone."""
    min_queries: int = 8

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise UsageError(
                f"the variant of the sink rule is {self.variant!r}; use one of {', '.join(get_args(Variant))}"
            )
        if not (self.alpha > 0 and 0 < self.threshold <= 1 and self.min_queries >= 1):
            raise UsageError(
                f"alpha {self.alpha}, threshold {self.threshold} and min_queries {self.min_queries} were given; alpha is "
                "above 0 (5), the threshold above 0 and at most 1 (0.1), min_queries at least 1 (8)"
            )

    def sinks(
        self,
        mass: Float[Tensor, "*head key"],
        seen: Float[Tensor, "*heads key"],
        even: Float[Tensor, "*heads key"],
    ) -> Bool[Tensor, "*head key"]:
        """Sinks of every head; `mass` is what keys get in sum, `seen` and `even` are those of `KeyFacts`."""
        able = seen >= self.min_queries
        if self.variant == "above_even":
            return able & (mass > self.alpha * even.clamp_min(1))
        limit = self.threshold if self.variant == "released" else self.alpha / mass.shape[-1]
        return able & (mass / seen.clamp_min(1) > limit)

    def __str__(self) -> str:
        what = {
            "above_even": f"more than {self.alpha:g} times what even attention gives it, and what the mean key gets",
            "paper": f"more than {self.alpha:g} / N on average",
            "released": f"more than {self.threshold:g} on average",
        }[self.variant]
        return f"{what}, from at least {self.min_queries} queries"


@dataclass(frozen=True)
class KeyFacts:
    """Notes of every layer how many queries see each key, what even attention would give it, and the size of its values.

    Costs O(n) memory, beside a block of the mask where there is one.
    """

    kept: dict[int, tuple[Tensor, Tensor, Tensor, Context]] = field(default_factory=dict, compare=False, repr=False)

    where: ClassVar[Where] = Where()

    def read(self, x: AttentionInputs, ctx: Context) -> None:
        """Takes the facts of one layer."""
        seen, even = _visibility(x, (ctx.positions >= 0).to(x.query.device))
        norms = x.value.float().norm(dim=-1).repeat_interleave(x.group_size, 1)
        self.kept[ctx.layer] = (seen.cpu(), even.cpu(), norms.cpu(), ctx)

    def of_sample(self, index: int, layer: int) -> tuple[Tensor, Tensor, Float[Tensor, "head key"]]:
        """Of one sample and layer without padding: `seen` and `even` [heads key], and norms of values [head key]."""
        seen, even, norms, ctx = self.kept[layer]
        real = ctx.key_positions[index] >= 0
        return seen[index][:, real], even[index][:, real], norms[index][:, real]


def _visibility(
    x: AttentionInputs, real: Bool[Tensor, "batch query"]
) -> tuple[Float[Tensor, "batch heads key"], Float[Tensor, "batch heads key"]]:
    """Queries that see each key, and the sum of 1 / (keys that the query sees) over them; heads of 1 where they agree."""
    batch, n_queries = real.shape
    if x.mask is None and x.causal and real.all():
        places = torch.arange(n_queries, device=real.device)
        shares = (1 / (places + 1.0)).flip(0).cumsum(0).flip(0)
        return tuple(one.expand(batch, 1, -1) for one in ((n_queries - places).float(), shares))  # type: ignore[return-value]
    heads = 1 if x.mask is None else x.mask.shape[1]
    seen = torch.zeros(batch, heads, x.n_keys, device=real.device)
    even = torch.zeros_like(seen)
    for rows in torch.arange(n_queries, device=real.device).split(max(1, BLOCK_ELEMENTS // (batch * heads * x.n_keys))):
        visible = (x.visible(rows) & real[:, None, rows, None]).float()
        seen += visible.sum(2)
        even += (visible / visible.sum(-1, keepdim=True).clamp_min(1)).sum(2)
    return seen, even
