"""What kind of head a head is, by where it looks: the classes of the circuit for indirect object identification.

Wang et al. 2022, arXiv 2211.00593, sections 3 and appendices; a[i, j] is attention of query i on key j, and marks are
those of `tasks.ioi` (any samples with the same marks will do):

    previous token   mean of a[i, i - 1] over all places
    duplicate token  a[S2, S1]         induction     a[S2, S1+1]
    S-inhibition     a[END, S2]        name mover    a[END, IO], and what it sees it copies (`copying_scores`)

Where a head looks is no proof of what it does: S-inhibition heads also must act on the queries of name movers, which
`experiments.path_patching` measures. Only the rows that are named are ever computed.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from head_analysis.copying import copying_scores
from headscope.errors import UsageError
from headscope.heads import Head, parse_heads
from headscope.hooks import Context, Site, Where
from headscope.model import HookedModel
from headscope.samples import Sample, batches
from headscope.scores import HeadScores

IOI_CIRCUIT: Mapping[str, tuple[Head, ...]] = {
    "previous token": parse_heads("2.2, 4.11"),
    "duplicate token": parse_heads("0.1, 0.10, 3.0"),
    "induction": parse_heads("5.5, 5.8, 5.9, 6.9"),
    "S-inhibition": parse_heads("7.3, 7.9, 8.6, 8.10"),
    "name mover": parse_heads("9.9, 10.0, 9.6"),
    "backup name mover": parse_heads("10.10, 10.6, 10.2, 10.1, 11.2, 9.7, 9.0, 11.9"),
    "negative name mover": parse_heads("10.7, 11.10"),
}
"""The 26 heads of GPT-2 small as the paper's released code lists them."""


def previous_token_scores(
    model: HookedModel, samples: Sequence[Sample | str], *, batch_tokens: int = 8192
) -> HeadScores:
    """Mean attention of every token but the first on the one before it; one forward pass, rows in blocks."""
    samples = [Sample(sample) if isinstance(sample, str) else sample for sample in samples]
    lengths = [len(model.tokens(sample).ids) for sample in samples]
    for i in (i for i, length in enumerate(lengths) if length < 2):
        raise UsageError(f"sample {i} has {lengths[i]} token, so none stands before another; give longer texts")
    found = torch.zeros(len(samples), len(model.layers()), model.n_heads)
    for places, chosen in batches(samples, lambda sample: len(model.tokens(sample).ids), batch_tokens):
        before = _Before()
        with torch.no_grad(), model.hooks(before):
            model.forward(chosen, last=1)
        sums = torch.stack([before.sums[layer] for layer in model.layers()], 1)
        found[places] = sums / torch.tensor([lengths[place] - 1 for place in places])[:, None, None]
    return _scores(model, found, "previous-token attention")


def mark_attention(
    model: HookedModel, samples: Sequence[Sample], query: str, key: str, *, batch_tokens: int = 8192
) -> HeadScores:
    """Attention of the last token of mark `query` on the tokens of mark `key`, per sample; a row of n for each."""
    spans = [model.tokens(sample).marks for sample in samples]
    for i, marks in enumerate(spans):
        if missing := [name for name in (query, key) if name not in marks]:
            raise UsageError(
                f"sample {i} has no mark {missing[0]!r} (it has {', '.join(marks) or 'none'}); mark it, or name another"
            )
    found = torch.zeros(len(samples), len(model.layers()), model.n_heads)
    by_place: dict[int, list[int]] = defaultdict(list)
    for i, marks in enumerate(spans):
        by_place[marks[query][1] - 1].append(i)
    for place, mine in by_place.items():
        rows = model.attention_rows([samples[i] for i in mine], positions=(place,), batch_tokens=batch_tokens)
        for i, row in zip(mine, rows, strict=True):
            found[i] = row[:, :, 0, slice(*spans[i][key])].sum(-1).cpu()
    return _scores(model, found, f"attention of {query} on {key}")


def duplicate_token_scores(model: HookedModel, samples: Sequence[Sample]) -> HeadScores:
    """a[S2, S1]: a name looks at where it stood before."""
    return mark_attention(model, samples, "S2", "S1")


def induction_scores(model: HookedModel, samples: Sequence[Sample]) -> HeadScores:
    """a[S2, S1+1]: a name looks at what followed it before."""
    return mark_attention(model, samples, "S2", "S1+1")


def s_inhibition_scores(model: HookedModel, samples: Sequence[Sample]) -> HeadScores:
    """a[END, S2]: the end looks at the name that stands twice."""
    return mark_attention(model, samples, "END", "S2")


def name_mover_scores(model: HookedModel, samples: Sequence[Sample]) -> HeadScores:
    """a[END, IO]: the end looks at the name that is wanted; negative movers do too."""
    return mark_attention(model, samples, "END", "IO")


def head_classes(
    model: HookedModel, samples: Sequence[Sample], *, attention: float = 0.3, copying: float = 0.9
) -> dict[str, tuple[Head, ...]]:
    """The heads of each class, best first: attention of at least `attention`, for movers copying of `copying` as well.

    The cut-offs are conventions, not results of the papers. A head may be in several classes.
    """
    sees = name_mover_scores(model, samples).above(attention)
    copies, removes = (copying_scores(model, samples, sign=sign).above(copying) for sign in (1, -1))
    return {
        "previous token": previous_token_scores(model, samples).above(attention),
        "duplicate token": duplicate_token_scores(model, samples).above(attention),
        "induction": induction_scores(model, samples).above(attention),
        "S-inhibition": s_inhibition_scores(model, samples).above(attention),
        "name mover": tuple(head for head in sees if head in copies),
        "negative name mover": tuple(head for head in sees if head in removes),
    }


@dataclass(frozen=True)
class _Before:
    """Adds up the attention of each query on the key one place before it: layer -> [sample head]."""

    site: Site = "pattern"
    where: Where = field(default_factory=Where)
    sums: dict[int, Tensor] = field(default_factory=dict, compare=False)

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        places = ctx.positions.masked_fill(ctx.positions < 1, -2)  # a first token has nothing before it
        before = ctx.key_positions[:, None, :] == places[:, :, None] - 1
        seen = (act * before[:, None].to(act.device)).sum((2, 3)).cpu()
        self.sums[ctx.layer] = self.sums.get(ctx.layer, 0) + seen
        return act


def _scores(model: HookedModel, found: Float[Tensor, "sample layer head"], metric: str) -> HeadScores:
    grid = torch.full((len(found), model.n_layers, model.n_heads), torch.nan)
    grid[:, list(model.layers())] = found
    return HeadScores(grid, metric, {"model": model.name, "revision": model.revision})
