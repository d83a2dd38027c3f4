"""The costliest heads of a sweep removed at once, beside as many random others of the same layers.

A sweep takes heads out one by one, and its largest effects are the largest of many. Removed at once, heads that stand in
for one another show; random heads of the same layers show what removing any so many would cost.
"""

from collections.abc import Sequence

import pandas as pd

from experiments.compare import Comparison, Condition
from experiments.controls import with_controls
from experiments.sweeps.ablated import Ablation
from experiments.sweeps.sweep import Metric, Sweep, run_sweep
from experiments.sweeps.units import Unit
from headscope.errors import UsageError
from headscope.heads import Head
from headscope.model import HookedModel
from headscope.runs import Run
from headscope.samples import Sample, Task
from headscope.sharing import Executor, do_work


def costliest(found: Sweep, model: HookedModel, k: int) -> tuple[Unit, ...]:
    """What to remove at once: the k costliest heads of a sweep as one unit, or its costliest unit of several heads.

    Fewer than k where fewer cost anything, or where a layer would not keep as many others to draw controls from; none
    where there are no controls at all, as for a whole layer.
    """
    sign = 1 if found.metric in ("loss", "kl") else -1
    effects = found.table.groupby("unit", sort=False)["effect"].mean() * sign
    ranked = [unit for unit in sorted(found.units, key=lambda unit: -effects[unit.name]) if effects[unit.name] > 0]
    if all(len(unit.heads) == 1 for unit in found.units):
        heads = with_counterparts(model, [unit.heads[0] for unit in ranked], k)
        return (Unit(f"{', '.join(map(str, heads))} at once", heads),) if heads else ()
    return tuple(unit for unit in ranked if _has_counterparts(model, unit.heads))[:1]


def with_counterparts(model: HookedModel, ranked: Sequence[Head], k: int) -> tuple[Head, ...]:
    """The first heads of a ranking, at most k, that leave as many others in each of their layers for controls."""
    counts = range(min(k, len(ranked)), 0, -1)
    return next((tuple(ranked[:n]) for n in counts if _has_counterparts(model, ranked[:n])), ())


def beside_random(
    model: HookedModel,
    samples: Sequence[Sample],
    treatments: Sequence[Unit],
    *,
    draws: int = 5,
    metric: Metric = "probability",
    ablation: Ablation | None = None,
    batch_tokens: int = 2048,
    run: Run | None = None,
    task: Task | None = None,
    max_new_tokens: int | None = None,
    executor: Executor = do_work,
    progress: bool = False,
) -> Comparison:
    """The whole model, each treatment, and `draws` random sets of as many heads of the same layers.

    Their score is the metric; each costs a pass of all samples. With a `run`, its cells are kept there. UsageError where
    a layer has too few other heads.
    """
    if not treatments:
        raise UsageError("no heads were given to remove at once; give at least one unit")
    ablation = ablation or Ablation()
    conditions = [
        condition
        for unit in treatments
        for condition in with_controls(model, unit.name, (ablation.of(unit.heads),), draws=draws)
    ]
    removed = [Unit(condition.name, _heads(condition)) for condition in conditions]
    found = run_sweep(
        model,
        samples,
        removed,
        metric=metric,
        ablation=ablation,
        batch_tokens=batch_tokens,
        run=run,
        part="together ",
        task=task,
        max_new_tokens=max_new_tokens,
        executor=executor,
        progress=progress,
    )
    values = found.table.rename(columns={"unit": "condition", "value": "score"})
    kinds = {condition.name: (condition.kind, condition.family) for condition in conditions}
    whole = values[values["condition"] == removed[0].name].assign(condition="whole model", score=lambda t: t["clean"])
    table = pd.concat([whole, values], ignore_index=True)[["condition", "sample", "score"]]
    told = [kinds.get(name, ("none", "")) for name in table["condition"]]
    table = table.assign(kind=[kind for kind, _ in told], family=[family for _, family in told])
    return Comparison(table, {"model": model.name, "metric": metric})


def _heads(condition: Condition) -> tuple[Head, ...]:
    """What a condition of one ablation removes."""
    return tuple(getattr(condition.interventions[0], "heads", ()))


def _has_counterparts(model: HookedModel, heads: Sequence[Head]) -> bool:
    width = {site.layer: site.n_heads for site in model.sites_of()}
    return all(2 * sum(head.layer == layer for head in heads) <= width[layer] for layer in {h.layer for h in heads})
