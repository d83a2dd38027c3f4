"""POPE and CHAIR of a run: metrics by condition, interventions beside their random controls."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from dashboards.reading import RunCard, open_run, run_table, table_columns
from dashboards.sink_data import whole
from headscope.errors import HeadscopeError, UsageError
from headscope.runs import Run

_TABLES = ("judged_families", "families")
_COLUMNS = {"metric", "condition", "kind", "value", "low", "high", "task"}


def judged_of(run: Run) -> pd.DataFrame:
    """A row for each task, metric and condition; UsageError where a run judged nothing."""
    name = _judging(run)
    if not name:
        raise UsageError(f"{run.path.name} judged no answers about images; a run of `headscope eval` does")
    with whole(run, name):
        kinds = {"value": float, "low": float, "high": float, "task": str, "metric": str}
        table = run_table(run, name).astype(kinds)
    if table.empty or table[["task", "metric", "condition", "kind"]].isna().any(axis=None):
        raise UsageError(f"the judgements of {run.path.name} have no rows, or gaps; make the run again")
    return table


def judged_runs(runs: Path, cards: Sequence[RunCard], card: RunCard) -> tuple[str, ...]:
    """Names of the runs on the same model that judged answers, the chosen run in front if it is one."""
    found = []
    for one in cards:
        if one.shares_model(card) and set(_TABLES) & set(one.tables):
            with suppress(HeadscopeError):
                found += [one.name] if _judging(open_run(runs, one.name)) else []
    return tuple(sorted(found, key=lambda name: name != card.name))


def bars_of(table: pd.DataFrame, task: str, metric: str) -> pd.DataFrame:
    """One metric of one task as `causal_bars` draws it; UsageError where no condition has a value."""
    part = table[(table["task"] == task) & (table["metric"] == metric)]
    bars = part.rename(columns={"value": "mean"}).dropna(subset=["mean", "low", "high"])
    if bars.empty:
        raise UsageError(f"{metric} of {task} has no value under any condition; choose another metric")
    return bars


def _judging(run: Run) -> str:
    """Name of the table of judgements; empty where there is none."""
    there = (name for name in _TABLES if name in run.table_names())
    return next((name for name in there if set(table_columns(run, name)) >= _COLUMNS), "")
