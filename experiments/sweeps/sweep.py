"""Ablation sweeps: every head (or pair, layer, group) taken out in turn, and what that does to the answers.

The effect of a unit on a sample is the metric without it minus the metric of the whole model: below 0 for a unit that the
answer needs, if more of the metric is better. All values are exact; what makes them cheap is in `experiments.ablated`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from experiments.sweeps.ablated import Ablation
from experiments.sweeps.cells import WORTH
from experiments.sweeps.units import Unit
from experiments.sweeps.values import HookedRunner, Metric, Runner, runner_for
from experiments.sweeps.work import COLUMNS, sweep_work
from headscope.errors import UsageError
from headscope.evidence import false_discovery, paired_difference
from headscope.heads import parse_heads
from headscope.model import HookedModel
from headscope.progress import progress_bar
from headscope.runs import Run
from headscope.samples import Sample, Task
from headscope.scores import HeadScores
from headscope.sharing import Executor, do_work
from headscope.tables import html_table

__all__ = ["HookedRunner", "Metric", "Runner", "Sweep", "run_sweep", "runner_for", "sweep_of"]

_META = ("model", "revision", "mode", "seed")


@dataclass(frozen=True)
class Sweep:
    """A row for each unit and sample: `unit`, `sample`, `clean`, `value` and `effect` (value - clean)."""

    table: pd.DataFrame
    units: tuple[Unit, ...]
    metric: Metric
    meta: Mapping[str, Any] = field(default_factory=dict)
    cells: int = 1
    """Cells of the whole sweep."""
    missing: tuple[str, ...] = ()
    """Keys of the cells that are not done yet; the table has no rows of them."""

    @property
    def note(self) -> str:
        """What is still missing and how to get it; empty for a sweep that is whole."""
        if not self.missing:
            return ""
        return f"{len(self.missing)} of {self.cells} cells are still missing: run the other shards, or --resume"

    def scores(self) -> HeadScores:
        """Effects of single heads, NaN for heads that were not swept.

        UsageError if no unit is a single head, or cells are missing.
        """
        self._refuse_gaps()
        single = [unit for unit in self.units if len(unit.heads) == 1]
        if not single:
            raise UsageError("no unit of this sweep is a single head; look at summary() instead")
        wide = self.table.pivot(index="sample", columns="unit", values="effect")
        layers, heads = (1 + max(unit.heads[0][i] for unit in single) for i in (0, 1))
        samples = torch.full((len(wide), layers, heads), torch.nan)
        for unit in single:
            samples[:, unit.heads[0].layer, unit.heads[0].head] = torch.tensor(wide[unit.name].to_numpy(np.float32))
        return HeadScores(samples, f"effect on {self.metric}", self.meta)

    def summary(self, *, level: float = 0.95) -> pd.DataFrame:
        """A row for each unit, largest effect first: mean effect, interval over samples, n, p, and q over all units.

        p is that of the paired difference from the whole model; q its false-discovery rate (Benjamini-Hochberg).
        UsageError if cells are missing: a ranking of what happens to be there would mislead.
        """
        self._refuse_gaps()
        rows = []
        for name, part in self.table.groupby("unit", sort=False):
            found = paired_difference(part["value"].to_numpy(), part["clean"].to_numpy(), level=level)
            rows.append(
                {"unit": name, "effect": found.mean, "low": found.low, "high": found.high, "n": len(part), "p": found.p}
            )
        table = pd.DataFrame(rows)
        table["q"] = false_discovery(table["p"].to_numpy(float))
        return table.sort_values("effect", key=lambda effects: -effects.abs(), kind="stable").reset_index(drop=True)

    def __repr__(self) -> str:
        gaps = f", {len(self.missing)} of {self.cells} cells missing" if self.missing else ""
        return f"Sweep({len(self.units)} units, {self.metric}, {len(self.table)} rows{gaps})"

    def plot(self) -> Any:
        """Single heads as a map of layer by head; else bars of the units of largest effect, 20 at most."""
        from headscope.figures import causal_bars

        if all(len(unit.heads) == 1 for unit in self.units):
            return self.scores().plot()
        shown = self.summary().head(20).rename(columns={"unit": "condition", "effect": "mean"})
        return causal_bars(shown.assign(kind="treatment"), title=f"effect on {self.metric}")

    def _repr_html_(self) -> str:
        about = f"effect on {self.metric} of {len(self.units)} units"
        if self.missing:
            return html_table(pd.DataFrame({"not whole": [self.note]}), about)
        return html_table(self.summary().head(10), f"{about}, {self.meta.get('model', '')}: the largest")

    def _refuse_gaps(self) -> None:
        if self.missing:
            raise UsageError(self.note)


def run_sweep(
    model: HookedModel,
    samples: Sequence[Sample],
    units: Sequence[Unit],
    *,
    metric: Metric = "probability",
    ablation: Ablation | None = None,
    batch_tokens: int = 2048,
    run: Run | None = None,
    part: str = "",
    shard: tuple[int, int] = (0, 1),
    task: Task | None = None,
    max_new_tokens: int | None = None,
    runner: Runner | None = None,
    executor: Executor = do_work,
    progress: bool = False,
) -> Sweep:
    """The effect of every unit on every sample.

    With a `run`, what is done of a batch for the units that begin in one layer is kept there as one cell, and not done
    again; several processes may work on one run, and `part` tells several sweeps in one run apart. `shard` (i, n) does
    the i-th of n shares of the cells, i from 0. The sweep that is returned says what is still missing. `score` needs the
    `task`, and room for the answer (`max_new_tokens`; the task's own if not given). Samples with images cost a whole pass
    for each unit. `executor` may have the cells done by other processes (`experiments.executors`).

    Raises UsageError for samples without the answers that the metric needs or longer than the model's context, and for a
    run that holds cells of another sweep; HeadscopeError for logits that are not finite, naming the layer.
    """
    planned = sweep_work(
        model,
        samples,
        units,
        metric=metric,
        ablation=ablation,
        batch_tokens=batch_tokens,
        part=part,
        shard=shard,
        task=task,
        max_new_tokens=max_new_tokens,
        runner=runner,
        worth=math.inf if run is None else WORTH,
    )
    if run is not None:
        run.plan(_plan(part), planned.every, planned.about)
    with progress_bar(sum(planned.rows.values()), "ablating", shown=progress) as update:
        found = executor(run, planned.work, lambda key, _: update(planned.rows[key]))
    if run is not None:
        return sweep_of(run, part=part)
    missing = tuple(key for key in planned.every if key not in found)
    meta = {key: planned.about[key] for key in _META}
    return Sweep(_joined(list(found.values())), tuple(units), metric, meta, len(planned.every), missing)


def sweep_of(run: Run, *, part: str = "") -> Sweep:
    """The sweep that a run holds, as far as it is done; UsageError if none was begun there."""
    plan = run.plans().get(_plan(part))
    if plan is None:
        raise UsageError(
            f"{run.path} holds no sweep named {_plan(part)!r}; it holds {', '.join(run.plans()) or 'none'}"
        )
    units = tuple(Unit(name, parse_heads(heads)) for name, heads in plan["units"].items())
    tables = {key: run.finished_cell(key, columns=COLUMNS) for key in plan["cells"]}
    missing = tuple(key for key, table in tables.items() if table is None)
    table = _joined([table for table in tables.values() if table is not None])
    return Sweep(table, units, plan["metric"], {key: plan[key] for key in _META}, len(tables), missing)


def _plan(part: str) -> str:
    return f"sweep {part}".strip()


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The tables below each other with the effect."""
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS), dtype=float)
    return table.assign(effect=table["value"] - table["clean"])
