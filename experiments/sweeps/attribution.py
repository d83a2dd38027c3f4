"""First-order estimates of what every head is worth: one forward and one backward pass instead of one pass a head.

Attribution patching (Nanda 2023, neelnanda.io/mechanistic-interpretability/attribution-patching; Syed, Rager and Conmy
2023, arXiv 2310.10348, equation 1): a head that hands over z would hand over r if it were removed, and to first order the
metric moves by (r - z) . d metric / d z, summed over the places of the prompt. They take r from a corrupted prompt; here
it is what ablation puts in its place. Only gradients at z are taken, parameters have none.

An estimate is for finding heads to sweep, not for a result. It sees a slope at one point: a head whose removal matters
only once a softmax further up leaves saturation is estimated at 0, and signs in early layers are often wrong. `agreement`
says how far it can be trusted on a model, by exact ablation of some heads.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from experiments.answer_metrics import answers_of
from experiments.sweeps.ablated import Ablation, UniformOutputs, removed
from experiments.sweeps.rank_agreement import spearman, spearman_interval, spread_over_layers
from experiments.sweeps.sweep import run_sweep
from experiments.sweeps.units import units
from experiments.sweeps.values import asked_all
from headscope.encoding import pad_left
from headscope.errors import UnsupportedModelError, UsageError
from headscope.evidence import check_level
from headscope.hooks import Context, Site, Where
from headscope.model import HookedModel
from headscope.progress import progress_bar
from headscope.samples import Sample, batches
from headscope.scores import HeadScores

Metric = Literal["logit_difference", "probability", "loss"]
"""As for `experiments.sweep`; a KL divergence has no slope to go by."""

SIGN = "first-order estimate of the effect on "
"""What the metric of such scores begins with, so that nobody takes them for exact ones."""


def screen(
    model: HookedModel,
    samples: Sequence[Sample],
    *,
    metric: str = "logit_difference",
    ablation: Ablation | None = None,
    batch_tokens: int = 2048,
    progress: bool = False,
) -> HeadScores:
    """What removing each head alone would do to the metric of each sample, to first order (metric without it minus with).

    Costs about three forward passes of the samples, however many heads there are; memory is what a backward pass keeps of
    `batch_tokens` tokens. Sums are float32 where the model is narrower. Raises UsageError for a metric without a slope
    and for samples that are too long or lack the answers it needs; UnsupportedModelError for encoder-decoders.
    """
    _refuse(model, samples, metric)
    ablation = ablation or Ablation()
    asked = _questions(model, samples, metric)
    shape = (len(samples), model.n_layers, model.n_heads)
    found = torch.full(shape, torch.nan, dtype=torch.promote_types(model.hf.dtype, torch.float32))
    with progress_bar(len(samples), "estimating", shown=progress) as update:
        for places, some in batches(asked, lambda one: len(one.ids), batch_tokens):
            for layer, values in _estimates(model, some, ablation).items():
                found[places, layer, : values.shape[1]] = values.to(found)
            update(len(places))
    meta = {
        "model": model.name,
        "revision": model.revision,
        "mode": ablation.mode,
        "seed": ablation.seed,
        "estimate": "first order",
        "of": metric,
    }
    return HeadScores(found, SIGN + metric, meta)


@dataclass(frozen=True)
class Agreement:
    """How an estimate ranks heads that were also ablated exactly."""

    rank_correlation: float
    """Spearman's, of signed mean effects; NaN where one of the two is the same for all heads."""
    low: float
    high: float
    """Bootstrap interval over the heads."""
    n_heads: int
    table: pd.DataFrame
    """A row a head, largest exact effect first: `head`, `exact` and `estimate`, means over the samples."""
    k: int
    overlap: float
    """Share of the k heads of largest exact effect, of either sign, that are among the k of largest estimate."""


def agreement(
    model: HookedModel,
    samples: Sequence[Sample],
    estimate: HeadScores,
    *,
    heads: int = 12,
    seed: int = 0,
    metric: str | None = None,
    ablation: Ablation | None = None,
    k: int | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    batch_tokens: int = 2048,
    progress: bool = False,
) -> Agreement:
    """Exact ablation of random heads, spread evenly over the layers, beside what `screen` said of them.

    `estimate` is of the same samples, metric (the estimate's own if not given) and ablation; UsageError if not. `k`
    defaults to a quarter of the heads.
    """
    ablation = ablation or Ablation()
    metric = _metric_of(estimate, metric, ablation, len(samples))
    check_level(level)
    chosen = spread_over_layers(estimate.heads, heads, seed=seed)
    k = max(1, len(chosen) // 4) if k is None else k
    if not 1 <= k <= len(chosen):
        raise UsageError(f"k is {k}, but {len(chosen)} heads are compared; use a k from 1 to {len(chosen)}")
    exact = run_sweep(
        model,
        samples,
        units(chosen),
        metric=metric,  # type: ignore[arg-type]  # one of those, or screen would have refused it
        ablation=ablation,
        batch_tokens=batch_tokens,
        progress=progress,
    ).scores()
    a, b = (np.array([float(scores.values[head]) for head in chosen]) for scores in (exact, estimate))
    low, high = spearman_interval(a, b, level=level, resamples=resamples, seed=seed)
    table = pd.DataFrame({"head": [str(head) for head in chosen], "exact": a, "estimate": b})
    table = table.sort_values("exact", key=lambda effects: -effects.abs(), kind="stable").reset_index(drop=True)
    best, likely = (set(np.argsort(-np.abs(effects), kind="stable")[:k].tolist()) for effects in (a, b))
    return Agreement(float(spearman(a[None], b[None])[0]), low, high, len(chosen), table, k, len(best & likely) / k)


@dataclass(frozen=True)
class _Question:
    """What of one sample is run, and the tokens its metric looks at."""

    ids: tuple[int, ...]
    answer: tuple[int, ...] = ()
    """Tokens whose mean loss is taken; none for metrics of the next token."""
    right: int | None = None
    wrong: int | None = None

    def metric(self, logits: Float[Tensor, "wanted vocab"]) -> Float[Tensor, ""]:
        """The metric of the last columns' logits, with its gradient."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.answer:
            target = torch.tensor(self.answer, device=logits.device)
            return nn.functional.cross_entropy(logits[-len(target) :], target)
        if self.wrong is None:
            return logits[-1].softmax(-1)[self.right]
        return logits[-1, self.right] - logits[-1, self.wrong]


def _questions(model: HookedModel, samples: Sequence[Sample], metric: str) -> list[_Question]:
    asked = asked_all(model, samples, metric, 0)  # type: ignore[arg-type]  # screen refuses others
    if metric == "loss":
        return [_Question(one.ids, one.answer) for one in asked]
    found = answers_of(model, samples, samples, metric)  # type: ignore[arg-type]
    right = found.right.tolist()
    wrong = [None] * len(right) if found.wrong is None else found.wrong.tolist()
    return [_Question(one.ids, right=a, wrong=b) for one, a, b in zip(asked, right, wrong, strict=True)]


@dataclass(frozen=True)
class _Slopes:
    """Keeps z of every layer as a point of the graph; below the first there is none."""

    seen: dict[int, Tensor] = field(default_factory=dict)
    contexts: dict[int, Context] = field(default_factory=dict)
    site: ClassVar[Site] = "z"
    where: ClassVar[Where] = Where()

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        kept = act.view_as(act) if act.requires_grad else act.detach().requires_grad_()
        self.seen[ctx.layer], self.contexts[ctx.layer] = kept, ctx
        return kept


def _estimates(
    model: HookedModel, asked: Sequence[_Question], ablation: Ablation
) -> Mapping[int, Float[Tensor, "sample head"]]:
    """One padded batch: layer -> estimates."""
    inputs = pad_left([one.ids for one in asked], model.processor)
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    wanted = max(1, *(len(one.answer) for one in asked))
    slopes, uniform = _Slopes(), UniformOutputs()
    readers = [uniform] if ablation.mode == "uniform" else []
    with _graph_of_activations(model.hf), model.hooks(*readers, slopes):
        places = model.positions_of(inputs["attention_mask"])
        logits = model.hf(**inputs, **places, logits_to_keep=wanted, use_cache=False).logits[:, -wanted:]
        # samples of a batch do not see each other, so the slope of the sum is that of each
        total = torch.stack([one.metric(row) for one, row in zip(asked, logits, strict=True)]).sum()
        gradients = torch.autograd.grad(total, list(slopes.seen.values()), materialize_grads=True)
    found = {}
    for (layer, z), gradient in zip(slopes.seen.items(), gradients, strict=True):
        z, ctx = z.detach(), slopes.contexts[layer]
        apart = removed(model, ablation, z, ctx, uniform.outputs) - z
        wide = torch.promote_types(z.dtype, torch.float32)
        real = (ctx.positions >= 0).to(z.device)[..., None, None]
        products = torch.where(real, apart.to(wide) * gradient.to(wide), 0)
        found[layer] = products.sum((1, 3))
    return found


@contextmanager
def _graph_of_activations(hf: nn.Module) -> Iterator[None]:
    """Inside, gradients are followed through activations only; parameters want none."""
    learning = [parameter for parameter in hf.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _refuse(model: HookedModel, samples: Sequence[Sample], metric: str) -> None:
    if metric == "kl":
        raise UsageError(
            "KL from the whole model is smallest, 0, at the whole model itself, so its slope there is 0 for every head "
            f"and a first-order estimate says nothing; use metric= {', '.join(get_args(Metric))}, or sweep exactly"
        )
    if metric not in get_args(Metric):
        raise UsageError(
            f"metric {metric!r} has no slope in the heads' outputs that could be followed; use one of "
            f"{', '.join(get_args(Metric))}, or sweep exactly"
        )
    if not samples:
        raise UsageError("0 samples were given; an estimate needs at least one")
    if any(sample.images for sample in samples):
        raise UsageError("estimates are made of text prompts, and these samples have images; leave the images out")
    if model.hf.config.is_encoder_decoder:
        raise UnsupportedModelError(f"{model.name} has an encoder and a decoder; estimates are made for decoders alone")


def _metric_of(estimate: HeadScores, metric: str | None, ablation: Ablation, n: int) -> str:
    if not estimate.metric.startswith(SIGN):
        raise UsageError(
            f"these scores are {estimate.metric!r}, not an estimate; give what screen(model, ...) returned"
        )
    if estimate.n != n:
        raise UsageError(f"the estimate is of {estimate.n} samples and {n} were given; give the same samples")
    metric = metric or str(estimate.meta["of"])
    for name, key, value in (
        ("metric", "of", metric),
        ("mode", "mode", ablation.mode),
        ("seed", "seed", ablation.seed),
    ):
        if estimate.meta[key] != value:
            raise UsageError(
                f"the estimate was made for {name} {estimate.meta[key]!r}, and {value!r} was given; use one for both"
            )
    return metric
