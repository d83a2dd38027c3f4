"""Attention sinks of a model that reads text: which tokens, in which heads, how much they take, and what they look like.

One pass over the texts, in O(n) memory. Guo et al. 2024 (arXiv 2410.13835) name three things that come together: sinks,
value states that are small at sinks, and a residual stream that peaks there; Sun et al. 2024 (arXiv 2402.17762) find the
peak in a few dimensions, massive activations. All are measured here; whether a token is a sink is judged by attention
alone (`head_analysis.sink_rules`), head by head. The first token, the usual sink (Xiao et al. 2023, arXiv 2309.17453), is
kept apart from later ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from head_analysis.sink_rules import KeyFacts, SinkRule
from head_analysis.sinks import sink_dimensions
from head_analysis.text_sink_tables import LATER, START, TextSinks
from headscope.errors import UsageError
from headscope.hooks import Context, Site, Where
from headscope.model import HookedModel
from headscope.progress import progress_bar
from headscope.samples import Sample, batches
from headscope.scores import HeadScores
from headscope.statistics import SampleStatistics


def text_sinks(
    model: HookedModel,
    samples: Sequence[Sample | str],
    *,
    rule: SinkRule | None = None,
    batch_tokens: int = 8192,
    progress: bool = False,
) -> TextSinks:
    """The sinks of every head on every sample.

    Attention is averaged over all queries of a sample. Costs what `model.statistics_cost` says. UsageError without
    samples, for a sample longer than the model's context, and where memory will not do.
    """
    if not samples:
        raise UsageError("there are no texts to look for sinks in; give at least one")
    asked = [Sample(sample) if isinstance(sample, str) else sample for sample in samples]
    check_context(model, asked)
    rule = rule or SinkRule()
    found: dict[int, _OneText] = {}
    with progress_bar(len(asked), "sinks", shown=progress) as update:
        for places, chosen in batches(asked, lambda sample: len(model.tokens(sample).ids), batch_tokens):
            facts, stream = KeyFacts(), _StreamNorms()
            with model.hooks(facts, stream):  # chosen by the same budget, so they are one batch in there too
                read = model.attention_statistics(chosen, rows=False, batch_tokens=batch_tokens)
            for i, place in enumerate(places):
                found[place] = _one_text(model, read.samples[i], read.layers, i, facts, stream, rule)
            update(len(places))
    ids = [model.tokens(sample).ids for sample in asked]
    every = [found[place] for place in range(len(asked))]
    meta = {"model": model.name, "revision": model.revision, "rule": rule.variant, "alpha": rule.alpha}

    def scores(name: str, metric: str) -> HeadScores:
        return HeadScores(torch.stack([getattr(one, name) for one in every]), metric, meta)

    def table(name: str) -> pd.DataFrame:
        numbered = [getattr(one, name).assign(sample=place) for place, one in enumerate(every)]
        return pd.concat(numbered, ignore_index=True)

    return TextSinks(
        first=scores("first", "attention on the first token"),
        later=scores("later", "attention on later sinks"),
        first_is_sink=scores("first_is_sink", "the first token is a sink"),
        later_count=scores("later_count", "later sinks (tokens)"),
        pairs=table("pairs"),
        norms=table("norms"),
        texts=tuple(tuple(model.tokenizer.convert_ids_to_tokens(list(one))) for one in ids),
        dimensions=sink_dimensions(model),
        rule=rule,
        meta=meta,
    )


def check_context(model: HookedModel, samples: Sequence[Sample]) -> None:
    """UsageError for a model without a tokenizer, and for texts of one token or more than the context's."""
    if model.tokenizer is None:
        raise UsageError(f"{model.name} came without a tokenizer, so it can read no text; save its tokenizer beside it")
    lengths = [len(model.tokens(sample).ids) for sample in samples]
    if min(lengths) < 2:
        raise UsageError(f"text {lengths.index(min(lengths))} has a single token; give texts of two tokens or more")
    if model.context_length is not None and max(lengths) > model.context_length:
        raise UsageError(
            f"a text of {max(lengths)} tokens does not fit the context of {model.name}, {model.context_length} tokens; "
            "ask for shorter lengths"
        )


@dataclass(frozen=True)
class _StreamNorms:
    """Notes the norm of every token's state before each layer."""

    kept: dict[int, tuple[Float[Tensor, "sample query"], Context]] = field(
        default_factory=dict, compare=False, repr=False
    )

    site: ClassVar[Site] = "resid_pre"
    where: ClassVar[Where] = Where()

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        self.kept[ctx.layer] = (act.float().norm(dim=-1).cpu(), ctx)
        return act

    def of_sample(self, index: int, layer: int) -> Float[Tensor, " token"]:
        """Of one sample without padding."""
        norms, ctx = self.kept[layer]
        return norms[index, ctx.positions[index] >= 0]


@dataclass(frozen=True)
class _OneText:
    """What was found on one sample; the tables as in `TextSinks`."""

    first: Float[Tensor, "layer head"]
    later: Float[Tensor, "layer head"]
    first_is_sink: Float[Tensor, "layer head"]
    later_count: Float[Tensor, "layer head"]
    pairs: pd.DataFrame
    norms: pd.DataFrame


def _one_text(
    model: HookedModel,
    read: SampleStatistics,
    layers: Sequence[int],
    index: int,
    facts: KeyFacts,
    stream: _StreamNorms,
    rule: SinkRule,
) -> _OneText:
    grids = torch.full((4, model.n_layers, model.n_heads), torch.nan)
    pairs, norms = [], []
    for layer, mass in zip(layers, read.column_mass.float(), strict=True):
        seen, even, values = facts.of_sample(index, layer)
        sink = rule.sinks(mass, seen, even)
        later = sink.clone()
        later[:, 0] = False
        share = mass / read.n_counted
        numbers = (share[:, 0], (share * later).sum(1), sink[:, 0].float(), later.sum(1).float())
        grids[:, layer, : len(mass)] = torch.stack(numbers)
        head, key = sink.nonzero(as_tuple=True)
        received = (mass / seen.clamp_min(1))[head, key]
        columns = {"head": head, "place": key, "mass": share[head, key], "received": received}
        pairs.append(pd.DataFrame({name: column.numpy() for name, column in columns.items()}).assign(layer=layer))
        norms.append(_norm_rows(layer, stream.of_sample(index, layer), values, sink))
    first, late, first_is_sink, late_count = grids
    tables = (pd.concat(parts, ignore_index=True) for parts in (pairs, norms))
    return _OneText(first, late, first_is_sink, late_count, *tables)


def _norm_rows(
    layer: int, stream: Float[Tensor, " token"], values: Float[Tensor, "head token"], sink: Bool[Tensor, "head token"]
) -> pd.DataFrame:
    """Norms of sinks over that of the median token: of the stream, and of values in the heads whose sinks they are."""
    first = torch.zeros_like(sink)
    first[:, 0] = True
    relative_stream = stream / stream.median()
    relative_values = values / values.median(1, keepdim=True).values.clamp_min(1e-12)
    rows = []
    for name, members in ((START, sink & first), (LATER, sink & ~first)):
        tokens = first[0] if name == START else members.any(0)
        residual = float(relative_stream[tokens].mean()) if tokens.any() else float("nan")
        value = float(relative_values[members].mean()) if members.any() else float("nan")
        rows.append({"layer": layer, "tokens": name, "residual": residual, "value": value})
    return pd.DataFrame(rows)
