"""What a sparse pattern keeps: the share of full attention on the keys that are left, and how far predictions move.

Both serve any interventions that hide keys, by the mask or by the scores. The share is of the attention that a layer
would have paid had it not been edited itself; the layers below it are edited, as they are when the intervention is used.
Attention that is only moved, not hidden, counts as retained.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import kl_div
from transformers import LogitsProcessor, LogitsProcessorList

from head_analysis.forced import run
from headscope.errors import UsageError
from headscope.hooks import Context, Site, Where
from headscope.model import HookedModel
from headscope.prompting import Hook
from headscope.samples import Sample, batches
from headscope.scores import HeadScores


@torch.no_grad()
def retained_attention(
    model: HookedModel,
    samples: Sequence[Sample | str],
    interventions: Sequence[Hook],
    *,
    where: Where | None = None,
    max_new_tokens: int = 0,
    batch_tokens: int = 8192,
) -> HeadScores:
    """Mean share of full attention on the keys that are left, for every sample and head, over the queries of `where`.

    With `max_new_tokens` answers are generated under the interventions; without, prompts are read in one pass, which
    interventions in decode leave alone. UsageError if `where` names no query of a sample. Costs the rows of all heads
    asked for twice.
    """
    samples = [Sample(sample) if isinstance(sample, str) else sample for sample in samples]
    asked = where or Where()
    shares = torch.full((len(samples), model.n_layers, model.n_heads), torch.nan)
    for places, chosen in batches(samples, lambda sample: len(model.tokens(sample).ids), batch_tokens):
        batch = model.encode(chosen)
        full: dict[str, Tensor] = {}
        compare = _Compare(asked, full)
        with model.hooks(_Before("mask", asked, full), _Before("scores", asked, full), *interventions, compare):
            if max_new_tokens:
                model.generate_batch(batch, max_new_tokens=max_new_tokens)
            else:
                run(model, batch.inputs)
        _check_seen(compare, places)
        for (layer, head), (share, queries) in compare.sums.items():
            shares[places, layer, head] = (share / queries).float().cpu()
    meta = {"model": model.name, "interventions": [repr(one) for one in interventions], "where": repr(asked)}
    return HeadScores(shares, "retained attention (share)", meta)


def _check_seen(compare: "_Compare", places: Sequence[int]) -> None:
    """UsageError for the first sample of a batch of which no query was seen."""
    queries = next((queries.tolist() for _, queries in compare.sums.values()), [0] * len(places))
    missing = [place for place, count in zip(places, queries, strict=True) if not count]
    if missing:
        raise UsageError(
            f"{compare.where} names no query of sample {min(missing)}; give max_new_tokens where it asks for decode, or "
            "name other queries"
        )


@dataclass(frozen=True)
class _Before:
    """Keeps the rows of a block as they are before anything else edits them."""

    site: Site
    where: Where
    full: dict[str, Tensor] = field(compare=False)

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        self.full[self.site] = act
        return act


@dataclass(frozen=True)
class _Compare:
    """Adds up how much of the full attention of a block's rows lies on keys that its edited rows still hold."""

    where: Where
    full: dict[str, Tensor] = field(compare=False)
    sums: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False)
    """(layer, head) -> sum of shares [sample], number of queries [sample]."""
    site: Site = "pattern"

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        scores = self.full.pop("scores").masked_fill(~self.full.pop("mask"), -torch.inf)
        pattern = scores.softmax(-1).nan_to_num(0.0)
        assert ctx.active is not None  # always given at `pattern`
        share = ((pattern * (act > 0)).sum(-1) * ctx.active[:, None].to(act.device)).sum(2)
        queries = ctx.active.sum(1).to(act.device)
        for i, head in enumerate(ctx.heads):
            before = self.sums.get((ctx.layer, head), (torch.zeros_like(share[:, i]), torch.zeros_like(queries)))
            self.sums[ctx.layer, head] = (before[0] + share[:, i], before[1] + queries)
        return act


@torch.no_grad()
def logit_change(
    model: HookedModel,
    samples: Sequence[Sample | str],
    interventions: Sequence[Hook],
    *,
    max_new_tokens: int = 0,
) -> list[Float[Tensor, " position"]]:
    """KL divergence (nats) of the edited next-token distribution from the plain one, for every position of each sample.

    By default the positions of the prompt, in one pass. With `max_new_tokens`, the steps of the plain model's own greedy
    answer: the edited model decodes that same answer token by token. Costs two passes, or two generations, a sample.
    """
    changes = []
    for sample in samples:
        if max_new_tokens:
            plain, tokens = _decoded(model, sample, (), max_new_tokens, None)
            edited, _ = _decoded(model, sample, interventions, len(tokens), tokens)
        else:
            plain = model.forward([sample]).of_sample(0)
            with model.hooks(*interventions):
                edited = model.forward([sample]).of_sample(0)
        p, q = (logits.float().log_softmax(-1) for logits in (plain, edited))
        changes.append(kl_div(q, p, reduction="none", log_target=True).sum(-1).cpu())
    return changes


def _decoded(
    model: HookedModel, sample: Sample | str, hooks: Sequence[Hook], steps: int, tokens: Sequence[int] | None
) -> tuple[Float[Tensor, "step vocab"], list[int]]:
    """Logits of every step of a generation, and the tokens it wrote; those given, where they are."""
    watch = _Watch(tokens)
    with model.hooks(*hooks):
        model.generate_batch(
            model.encode([sample]), max_new_tokens=steps, logits_processor=LogitsProcessorList([watch])
        )
    return torch.cat(watch.logits), [int(step.argmax()) for step in watch.logits] if tokens is None else list(tokens)


class _Watch(LogitsProcessor):
    """Keeps the logits of each step, and has the given tokens written instead of the likeliest."""

    def __init__(self, tokens: Sequence[int] | None) -> None:
        self.logits: list[Tensor] = []
        self._tokens = tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.logits.append(scores.detach().clone())
        if self._tokens is None:
            return scores
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self._tokens[len(self.logits) - 1]] = 0.0
        return forced
