"""POPE and CHAIR of a run: metrics by condition, interventions beside their random controls."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dashboards.reading import RunCard, open_run, run_table
from dashboards.sink_data import whole
from headscope.errors import HeadscopeError, UsageError
from headscope.runs import Run

_TABLES = ("judged_families", "families")
_COLUMNS = {"metric", "condition", "kind", "value", "low", "high", "task"}


def judged_of(run: Run) -> pd.DataFrame:
    """A row for each task, metric and condition; UsageError where a run judged nothing."""
    for name in _TABLES:
        if name in run.table_names():
            table = run_table(run, name)
            if set(table.columns) >= _COLUMNS:
                with whole(run, name):
                    return table.astype({"value": float, "low": float, "high": float, "task": str, "metric": str})
    raise UsageError(f"{run.path.name} judged no answers about images; a run of `headscope eval` does")


def judged_runs(runs: Path, cards: Sequence[RunCard], card: RunCard) -> tuple[str, ...]:
    """Names of the runs on the same model that judged answers, the chosen run in front if it is one."""
    found = []
    for one in cards:
        same = one.model == card.model or one.name == card.name
        if same and not one.problem and set(_TABLES) & set(one.tables):
            try:
                judged_of(open_run(runs, one.name))
            except HeadscopeError:
                continue
            found.append(one.name)
    return tuple(sorted(found, key=lambda name: name != card.name))


def bars_of(table: pd.DataFrame, task: str, metric: str) -> pd.DataFrame:
    """One metric of one task as `causal_bars` draws it; UsageError where no condition has a value."""
    part = table[(table["task"] == task) & (table["metric"] == metric)]
    bars = part.rename(columns={"value": "mean"}).dropna(subset=["mean", "low", "high"])
    if bars.empty:
        raise UsageError(f"{metric} of {task} has no value under any condition; choose another metric")
    return bars
