"""Heads chosen for calibration, judged on samples that had no part in the choice, beside all heads and random ones."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from experiments.compare import Comparison, Condition
from experiments.filtering.choosing import choice_scores
from headscope.heads import Head
from headscope.model import HookedModel
from headscope.progress import progress_bar
from headscope.runs import Run
from headscope.sharing import do_cells
from interventions.act import ACT
from tasks.choices import ChoiceTask

_FAMILY = "as many random heads"
_TOGETHER = "all tasks"


@dataclass(frozen=True)
class HeldOut:
    """A row for each task, condition and sample: as of `compare_choices`, with the task."""

    table: pd.DataFrame

    def families(self) -> pd.DataFrame:
        """A row for each task and condition, draws of random heads together; several tasks are also taken together."""
        parts = [(name, part) for name, part in self.table.groupby("task", sort=False)]
        if len(parts) > 1:
            numbered = self.table["task"] + "/" + self.table["sample"].astype(str)
            parts.append((_TOGETHER, self.table.assign(sample=numbered)))
        return pd.concat([Comparison(part).families().assign(task=name) for name, part in parts], ignore_index=True)


def held_out_conditions(
    candidates: Sequence[Head], kept: Sequence[Head], act: ACT, *, draws: int = 5
) -> list[Condition]:
    """Nothing edited, the kept heads calibrated, all candidates, and `draws` times as many random heads, layer by layer.

    Random heads are drawn among candidates that were not kept where a layer has enough of them, and among all candidates
    of the layer where it has not. Where no head or every head was kept, the conditions that say nothing are left out.
    """

    def calibrated(heads: Sequence[Head]) -> tuple[ACT, ...]:
        return (replace(act, heads=tuple(heads), layers=None),)

    conditions = [Condition("none")]
    if kept:
        conditions.append(Condition(f"kept heads ({len(kept)})", calibrated(kept)))
    if set(kept) == set(candidates):
        return conditions
    conditions.append(Condition(f"all heads ({len(candidates)})", calibrated(candidates)))
    if kept:
        for seed in range(draws):
            drawn = random_like(candidates, kept, seed=seed)
            conditions.append(Condition(f"{_FAMILY}, seed {seed}", calibrated(drawn), "control", _FAMILY))
    return conditions


def random_like(candidates: Sequence[Head], kept: Sequence[Head], *, seed: int) -> tuple[Head, ...]:
    """As many heads of each layer as were kept there; others where there are enough, else any candidates."""
    rng = np.random.default_rng(seed)
    drawn: list[Head] = []
    for layer, count in sorted(Counter(head.layer for head in kept).items()):
        inside = [head for head in candidates if head.layer == layer]
        others = [head for head in inside if head not in kept]
        pool = others if len(others) >= count else inside
        drawn += [pool[i] for i in sorted(rng.choice(len(pool), count, replace=False).tolist())]
    return tuple(drawn)


def judge_held_out(
    model: HookedModel,
    tasks: Mapping[str, ChoiceTask],
    conditions: Sequence[Condition],
    *,
    batch_tokens: int = 8192,
    run: Run | None = None,
    progress: bool = False,
) -> HeldOut:
    """The choices on every task under every condition; with a `run`, what is finished is kept there."""
    asked = {f"held out, {name}, {one.name}": (name, one) for name in tasks for one in conditions}

    def do(keys: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
        for key in keys:
            name, condition = asked[key]
            with model.hooks(*condition.interventions):
                table = choice_scores(model, tasks[name], batch_tokens=batch_tokens)
            about = {"condition": condition.name, "kind": condition.kind, "family": condition.family}
            yield key, table.assign(task=name, **about)

    with progress_bar(len(asked), "held-out samples", shown=progress) as update:
        tables = do_cells(run, list(asked), do, columns=("sample", "score", "task"), update=lambda _, __: update(1))
    return HeldOut(pd.concat(tables.values(), ignore_index=True))
