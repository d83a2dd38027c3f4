"""Attention statistics of every head at once, exact, in O(n) memory: what `HookedModel.attention_statistics` returns.

First-token mass is attention on the sample's first token (the usual sink: Xiao et al. 2023, arXiv 2309.17453). The scores
of classic head types follow Olsson et al. 2022 (arXiv 2209.11895) and Wang et al. 2022 (arXiv 2211.00593): attention on
the previous token; on earlier occurrences of the query's own token (duplicate); on the tokens after those (induction).
The last two are means over the queries whose token stood there before: no others can score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headscope.engine.inputs import AttentionInputs
from headscope.engine.statistics import LayerStatistics, layer_statistics, layer_sums
from headscope.engine.transposed import suits
from headscope.errors import UsageError
from headscope.hooks import Context, Where
from headscope.recording import membership
from headscope.scores import HeadScores


@dataclass(frozen=True, eq=False)
class SampleStatistics:
    """Statistics of one sample without its padding; layers are those that were read, in order."""

    counted: Bool[Tensor, " query"]
    """Queries that sums and means are taken over."""
    column_mass: Float[Tensor, "layer head key"]
    """Attention that each token gets, summed over counted queries."""
    mean_entropy: Float[Tensor, "layer head"]
    """In nats, mean over counted queries."""
    mean_distance: Float[Tensor, "layer head"]
    """How many tokens behind the query its attention lies, mean over counted queries; later tokens count negative."""
    entropy: Float[Tensor, "layer head query"] | None = None
    """Of every row, in nats."""
    top_key: Int[Tensor, "layer head query"] | None = None
    """Token with the largest weight in every row; -1 where a query sees none."""
    distance_mass: Float[Tensor, "layer head distance"] | None = None
    """Attention on the token so many places before the query, summed over counted queries."""
    group_mass: Float[Tensor, "layer head query group"] | None = None
    """Of every row on each group of tokens."""
    duplicate_mass: Float[Tensor, "layer head"] | None = None
    induction_mass: Float[Tensor, "layer head"] | None = None
    """Attention on earlier occurrences of the query's token, and on the tokens after those; sums over counted queries."""
    repeats: int = 0
    """Counted queries whose token stood in the sample before."""

    @property
    def n_counted(self) -> int:
        """Number of queries that sums are taken over."""
        return int(self.counted.sum())


@dataclass(frozen=True, eq=False, repr=False)
class AttentionStatistics:
    """Statistics of several samples, and scores of heads made of them."""

    samples: tuple[SampleStatistics, ...]
    layers: tuple[int, ...]
    """Number of each layer that was read."""
    shape: tuple[int, int]
    """Layers and heads of the model; scores are NaN where a layer was not read."""
    groups: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"AttentionStatistics({len(self.samples)} samples, {len(self.layers)} layers, {', '.join(self.names)})"

    @property
    def names(self) -> tuple[str, ...]:
        """What `scores` can be asked for."""
        first = self.samples[0]
        distances = () if first.distance_mass is None else ("previous_token", "local")
        tokens = () if first.duplicate_mass is None else ("duplicate_token", "induction")
        return ("first_token", "entropy", "distance", *distances, *tokens, *self.groups)

    def scores(self, name: str, *, within: int = 8) -> HeadScores:
        """One number a sample and head: a mean over counted queries.

        `entropy` is in nats, `distance` in tokens; all others are shares of attention. `local` is attention on the query
        itself and the tokens fewer than `within` places before it. UsageError for what was not measured, and where no
        query of a sample can score.
        """
        if name not in self.names:
            raise UsageError(
                f"{name!r} was not measured; there are {', '.join(self.names)}. Ask attention_statistics for "
                "distances=True (previous_token, local), tokens=True (duplicate_token, induction) or groups"
            )
        values = torch.full((len(self.samples), *self.shape), torch.nan)
        for i, sample in enumerate(self.samples):
            found = self._of_sample(i, sample, name, within)
            values[i, list(self.layers), : found.shape[1]] = found.float().cpu()
        metric = {"entropy": "entropy (nats)", "distance": "mean distance (tokens)"}.get(name, f"attention: {name}")
        return HeadScores(values, f"{metric}, within {within}" if name == "local" else metric, self.meta)

    def _of_sample(self, index: int, sample: SampleStatistics, name: str, within: int) -> Float[Tensor, "layer head"]:
        n = sample.n_counted
        if name == "distance":
            return sample.mean_distance
        if name == "entropy":
            return sample.mean_entropy
        if name in self.groups and sample.group_mass is not None:
            return sample.group_mass[:, :, sample.counted, self.groups.index(name)].mean(-1)
        if name == "first_token":
            return sample.column_mass[..., 0] / n
        if name == "local" and sample.distance_mass is not None:
            return sample.distance_mass[..., :within].sum(-1) / n
        if name == "previous_token" and sample.distance_mass is not None:
            followers = int(sample.counted[1:].sum())
            return sample.distance_mass[..., 1] / self._some(followers, index, "has a token before it")
        mass = sample.duplicate_mass if name == "duplicate_token" else sample.induction_mass
        return torch.as_tensor(mass) / self._some(sample.repeats, index, "holds a token that stood there before")

    @staticmethod
    def _some(count: int, index: int, what: str) -> int:
        if not count:
            raise UsageError(
                f"no counted query of sample {index} {what}, so it has no such score; leave the sample out"
            )
        return count


@dataclass(frozen=True)
class StatisticsReader:
    """Reads every head of the layers it is shown, and hands back the head outputs: the layer's own kernel is spared."""

    where: Where
    tokens: Int[Tensor, "sample column"] | None
    """Ids, for scores of repeated tokens."""
    groups: Sequence[Sequence[Sequence[int]]]
    """sample -> group -> places in the sample"""
    distances: bool
    rows: bool = True
    """Whether entropy and top key of every row are kept; without them a GPU can work with fused kernels."""
    kept: dict[int, tuple[LayerStatistics, Context]] = field(default_factory=dict, compare=False)

    def read(self, x: AttentionInputs, ctx: Context) -> Float[Tensor, "batch query head d_v"]:
        """Measures one layer; UsageError where a layer calls attention more than once, or on other tokens' keys."""
        if ctx.layer in self.kept:
            raise UsageError(
                f"layer {ctx.layer} of {ctx.stack!r} calls attention several times in a pass (once per image or window), "
                "and its statistics would be mixed up; record rows of it instead"
            )
        if x.query.shape[2] != x.n_keys:
            raise UsageError(
                f"{ctx.stack!r} attends from {x.query.shape[2]} queries to {x.n_keys} keys; statistics need queries and "
                "keys of one sequence: use attention_mass or record"
            )
        device, active = x.query.device, self.where.active(ctx)
        more = self.rows or self.distances or self.tokens is not None or self.groups[0]
        if x.query.is_cuda and not more and active.all() and suits(x):
            out, found = layer_sums(x)
        else:
            out, found = layer_statistics(
                x,
                weights=active.to(device, torch.float32),
                distances=self.distances,
                groups=membership(self.groups, ctx).to(device) if self.groups[0] else None,
                tokens=None if self.tokens is None else _text(self.tokens, ctx).to(device),
            )
        self.kept[ctx.layer] = (found if self.rows else replace(found, entropy=None, top_key=None), ctx)
        return out

    def of_sample(self, index: int) -> SampleStatistics:
        """Statistics of one sample, padding dropped; UsageError if no query of it was counted."""
        if not self.kept:
            raise UsageError(f"nothing was read: {self.where} names no layer")
        layers = [self.kept[layer] for layer in sorted(self.kept)]
        ctx = layers[0][1]
        real, counted = ctx.positions[index] >= 0, self.where.active(ctx)[index]
        if not counted.any():
            raise UsageError(
                f"no query of a sample is counted: {self.where} names none of its {int(real.sum())} tokens"
            )
        places = ctx.positions[index]

        def stacked(name: str) -> Tensor | None:
            one = [getattr(found, name) for found, _ in layers]
            return None if one[0] is None else torch.stack([tensor[index] for tensor in one]).cpu()

        column, row, entropy_sum = (
            torch.as_tensor(stacked(name)) for name in ("column_mass", "row_mass", "entropy_sum")
        )
        behind = (row.double() * torch.where(counted, places, 0)).sum(-1) - column.double() @ places.clamp_min(
            0
        ).double()
        entropy, top, distance, groups = (
            stacked(name) for name in ("entropy", "top_key", "distance_mass", "group_mass")
        )
        return SampleStatistics(
            counted=counted[real],
            column_mass=column[..., real],
            mean_entropy=entropy_sum / int(counted.sum()),
            mean_distance=(behind / int(counted.sum())).to(column.dtype),
            entropy=None if entropy is None else entropy[..., real],
            top_key=None if top is None else torch.where(top < 0, -1, places[top.clamp_min(0)])[..., real],
            distance_mass=None if distance is None else distance[..., : int(real.sum())],
            group_mass=None if groups is None else groups[..., real, :],
            duplicate_mass=stacked("duplicate_mass"),
            induction_mass=stacked("induction_mass"),
            repeats=0 if self.tokens is None else _repeats(_text(self.tokens, ctx)[index], counted),
        )


def _text(tokens: Int[Tensor, "sample column"], ctx: Context) -> Int[Tensor, "sample column"]:
    """Ids, -1 for padding and image tokens, which repeat without meaning it."""
    silent = ctx.key_positions < 0 if ctx.image_keys is None else (ctx.key_positions < 0) | ctx.image_keys
    return tokens.cpu().masked_fill(silent, -1)


def _repeats(tokens: Int[Tensor, " column"], counted: Bool[Tensor, " column"]) -> int:
    seen: set[int] = set()
    repeats = 0
    for token, counts in zip(tokens.tolist(), counted.tolist(), strict=True):
        repeats += counts and token >= 0 and token in seen
        seen.add(token)
    return repeats
