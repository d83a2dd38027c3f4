"""Attention Calibration Technique (Yu et al. 2024, arXiv 2406.15765): sinks give a share of their attention to the rest.

A key's mean attention is taken over all queries that see it, A[k] = sum_q a[q, k] / (N - k) for N tokens under a causal
mask. In the heads named, every key but the first token whose mean lies above a limit is a sink:
it keeps the share `beta` of what each query gives it, and what is freed goes to all keys that are no sinks, the first
token among them, in proportion to what they have. Rows still sum to one. All queries, in prefill and decode; in the
prefill of a prompt a row therefore depends on the rows behind it, as in the released code.

Two limits can be had by name. `paper`: alpha / N with alpha = 5 (as others report it), N the keys that a query at the end
sees, so that it means the same at every length and in a sliding window. `released`: an absolute 0.1, which is five times
the uniform share at 50 tokens and fifty times at 500. Under a causal mask early keys have short rows to share: in a head
that spreads its attention evenly, the second token passes the limit of the paper from 221 tokens on.

Three accidents of the released code are not offered. It spares the sink that it finds first instead of the first token,
which differs where the first token is no sink. In cached decoding it takes the newest row alone for the whole pattern,
and writes 1 over its weight on the first token, so that rows sum to more than one; here the sums over queries are carried
from the prompt through the answer. Its numbers come from the environment and are 0 when forgotten; here a threshold of 0
is refused.

Means over few queries are no means: a key seen by fewer than `min_queries` is never a sink. Keys generated count like any
others, and rows computed before are not computed again when a new sink appears. Not for beam search, which reorders the
cache.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headscope.bridge_hooks import ForBridges
from headscope.engine.inputs import AttentionInputs
from headscope.errors import UsageError
from headscope.heads import Head, parse_heads
from headscope.hooks import Context, Site, Where
from headscope.model import HookedModel
from headscope.prompting import Prompt
from interventions.columns import ColumnMeans

Variant = Literal["paper", "released"]
Lowered = Literal["sinks", "random"]
_FIRST_LAYER = 2


@dataclass(frozen=True)
class ACT(ForBridges):
    """Lowers the attention of sinks to the share `beta`, in the given heads or in all heads of the layers.

    By default those are all layers but the first two and the last, as the released code has it for Llama; where heads are
    given and layers are not, any layer. `min_queries` is 8 unless given, 1 for `released`. `lowers="random"` is the
    control of the tokens: as many others in each head give up attention in the sinks' place; random heads are the control
    of the heads. Raises UsageError for numbers out of range and for models whose layers are all excluded. Costs all rows
    of the heads twice, in blocks: once for the means, once for the edit.
    """

    heads: tuple[Head, ...] | None = None
    variant: Variant = "paper"
    beta: float | int = 0.4
    alpha: float | int = 5
    threshold: float | int = 0.1
    layers: tuple[int, ...] | None = None
    min_queries: int | None = None
    lowers: Lowered = "sinks"
    seed: int = 0

    def __init__(
        self,
        heads: "str | Iterable[Head | str | tuple[int, int]] | None" = None,
        variant: Variant = "paper",
        *,
        beta: float | int = 0.4,
        alpha: float | int = 5,
        threshold: float | int = 0.1,
        layers: Iterable[int] | None = None,
        min_queries: int | None = None,
        lowers: Lowered = "sinks",
        seed: int = 0,
    ) -> None:
        given = None if heads is None else parse_heads(heads)
        chosen = None if layers is None else tuple(layers)
        values = (given, variant, beta, alpha, threshold, chosen, min_queries, lowers, seed)
        for name, value in zip(self.__dataclass_fields__, values, strict=True):
            object.__setattr__(self, name, value)
        self._validate()

    def _validate(self) -> None:
        for name, known in (("variant", get_args(Variant)), ("lowers", get_args(Lowered))):
            if getattr(self, name) not in known:
                raise UsageError(f"ACT's {name} is {getattr(self, name)!r}; use one of {', '.join(known)}")
        _check_beta(self.beta)
        _check_threshold(self.threshold)
        if not self.alpha > 0:
            raise UsageError(
                f"ACT's alpha is {self.alpha}; give how many times the uniform share a sink gets, above 0 (5)"
            )
        if self.least_queries < 1:
            raise UsageError(f"ACT's min_queries is {self.min_queries}; give at least 1, or None")

    @property
    def least_queries(self) -> int:
        """Fewest queries that must have seen a key before it can be a sink."""
        if self.min_queries is not None:
            return self.min_queries
        return 8 if self.variant == "paper" else 1

    @property
    def where(self) -> Where:
        """The heads and layers."""
        return Where(heads=self.heads, layers=self.layers)

    def prepared(self, model: HookedModel) -> "ACT":
        """With the layers of this model filled in."""
        ready = self
        if self.heads is None and self.layers is None:
            layers = default_layers(model.layers())
            if not layers:
                raise UsageError(
                    f"ACT leaves the first two layers and the last alone, and {model.name} has no others; name some with "
                    "layers= or heads="
                )
            ready = replace(self, layers=layers)
        model.validate(_Calibrate(ready, {}))
        return ready

    def begin(self, prompt: Prompt) -> Sequence[Any]:
        """Sums up what keys receive while rows are read, and edits the rows of every pass with it."""
        columns: dict[int, ColumnMeans] = {}
        return [_AddUp(self, columns), _Calibrate(self, columns)]


@dataclass(frozen=True)
class _AddUp:
    """Takes the rows of a call into the means before any of them is edited."""

    act: ACT
    columns: dict[int, ColumnMeans] = field(compare=False)

    @property
    def where(self) -> Where:
        return self.act.where

    def read(self, x: AttentionInputs, ctx: Context) -> None:
        heads = self.where.heads_at(ctx.layer, x.n_heads)
        self.columns[ctx.layer] = ColumnMeans.of(x, ctx, heads, self.columns.get(ctx.layer))


@dataclass(frozen=True)
class _Calibrate:
    act: ACT
    columns: dict[int, ColumnMeans] = field(compare=False)
    site: Site = "pattern"

    @property
    def where(self) -> Where:
        return self.act.where

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        columns = self.columns[ctx.layer]
        limit = self.act.threshold if self.act.variant == "released" else self.act.alpha / columns.widest[:, None, None]
        able = columns.queries >= self.act.least_queries
        able[..., 0] = False
        sink = able & (columns.mean > limit)
        if self.act.lowers == "random":
            sink = _as_many_others(sink, able, ctx, self.act.seed)
        if not sink.any():
            return act
        return calibrated(act, columns.at_keys(sink, ctx), beta=float(self.act.beta))


def default_layers(layers: Sequence[int]) -> tuple[int, ...]:
    """All of these layers but the first two and the last."""
    return tuple(layers[_FIRST_LAYER:-1])


def calibrate(
    pattern: Float[Tensor, "head query key"], *, beta: float = 0.4, threshold: float = 0.1
) -> Float[Tensor, "head query key"]:
    """The causal pattern of a whole prompt after calibration with an absolute threshold, as the released code does it.

    The first token is spared by its place. UsageError for a beta or threshold out of range.
    """
    _check_beta(beta)
    _check_threshold(threshold)
    n = pattern.shape[-1]
    mean = pattern.sum(-2) / torch.arange(n, 0, -1, device=pattern.device)
    sink = mean > threshold
    sink[:, 0] = False
    return calibrated(pattern, sink, beta=beta)


def calibrated(
    rows: Float[Tensor, "*batch query key"], sink: Bool[Tensor, "*batch key"], *, beta: float
) -> Float[Tensor, "*batch query key"]:
    """Rows in which sinks keep the share `beta`; a row with nothing on other keys to share it out by is unchanged."""
    sink = sink.unsqueeze(-2)
    freed = (1 - beta) * (rows * sink).sum(-1, keepdim=True)
    others = (rows * ~sink).sum(-1, keepdim=True)
    received = freed * (rows / others.clamp_min(torch.finfo(rows.dtype).tiny))
    return torch.where(others > 0, torch.where(sink, beta * rows, rows + received), rows)


def _as_many_others(sink: Tensor, able: Tensor, ctx: Context, seed: int) -> Tensor:
    """In every head as many keys as are sinks, drawn from those that could be and are not."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + ctx.layer)
    lots = torch.rand(
        sink.shape[-1], max(ctx.heads) + 1, generator=generator
    )  # a head's key draws the same in any batch
    lots = lots.T[list(ctx.heads)].to(sink.device).masked_fill(~able | sink, torch.inf)
    place_in_draw = lots.argsort(-1).argsort(-1)
    return (place_in_draw < sink.sum(-1, keepdim=True)) & lots.isfinite()


def _check_beta(beta: float | int) -> None:
    if not 0 <= beta <= 1:
        raise UsageError(f"ACT's beta is {beta}; give the share of its attention that a sink keeps, from 0 to 1 (0.4)")


def _check_threshold(threshold: float | int) -> None:
    if not 0 < threshold <= 1:
        raise UsageError(
            f"ACT's threshold is {threshold}; give a mean attention above 0, at most 1 (0.1); at 0 all tokens are sinks"
        )
