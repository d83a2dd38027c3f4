"""All that the runs of one folder know of one head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from dashboards.reading import RunCard, run_scores, run_table
from headscope.errors import HeadscopeError
from headscope.evidence import mean_interval
from headscope.heads import Head
from headscope.runs import Run
from headscope.scores import HeadScores

_DERIVED = frozenset({"head_scores"})
"""Tables that repeat what the scores say."""


@dataclass(frozen=True)
class HeadFacts:
    """What one run knows of a head; tables are empty where it knows nothing."""

    scores: pd.DataFrame
    removal: pd.DataFrame
    tables: dict[str, pd.DataFrame]


def head_facts(run: Run, head: Head) -> HeadFacts:
    """All of it."""
    return HeadFacts(score_rows(run, head), removal_rows(run, head), table_rows(run, head))


def score_rows(run: Run, head: Head) -> pd.DataFrame:
    """A row for each kind of score in a run: the head's mean, its interval, and its rank among all heads."""
    rows = []
    for name in run.score_names():
        try:
            scores = run_scores(run, name)
        except HeadscopeError:
            continue  # the run's own page says what is wrong with it
        if head in scores.heads:
            rows.append({"run": run.path.name, "score": name, **_standing(scores, head)})
    return pd.DataFrame(rows)


def sample_values(scores: HeadScores, head: Head) -> list[float]:
    """The head's value in every sample."""
    return scores.samples[:, head.layer, head.head].double().tolist()


def table_rows(run: Run, head: Head) -> dict[str, pd.DataFrame]:
    """Rows about the head in a run's other tables: those with columns `layer` and `head`, or a name such as `L2H5`."""
    found = {}
    for name in run.table_names():
        if name in _DERIVED:
            continue
        try:
            rows = _rows_of(run_table(run, name), head)
        except HeadscopeError:
            continue
        if len(rows):
            found[name] = rows
    return found


def removal_rows(run: Run, head: Head) -> pd.DataFrame:
    """What happened in a run that removed this head, alone or among others: a row for each condition; else empty."""
    try:
        config = run.facts.get("config")
        removed = config.get("heads") if isinstance(config, Mapping) else None
        if not isinstance(removed, list) or str(head) not in removed or "families" not in run.table_names():
            return pd.DataFrame()
        table = run_table(run, "families")
    except HeadscopeError:
        return pd.DataFrame()
    columns = ["condition", "kind", "mean", "low", "high", "n", "difference", "p"]
    return table.reindex(columns=columns).assign(run=run.path.name, removed=", ".join(map(str, removed)))


def runs_of_model(cards: Sequence[RunCard], name: str) -> tuple[str, ...]:
    """Names of the runs made on the same model as this run, which comes first; this one alone where it names no model."""
    model = next((card.model for card in cards if card.name == name), "")
    others = (card.name for card in cards if model and card.model == model and card.name != name)
    return (name, *others)


def _standing(scores: HeadScores, head: Head) -> dict[str, object]:
    values = scores.values
    mine = values[head]
    low, high = mean_interval(scores.samples[:, head.layer, head.head][:, None])
    return {
        "metric": scores.metric,
        "value": float(mine),
        "low": float(low[0]),
        "high": float(high[0]),
        "rank": int((values[scores.exists] > mine).sum()) + 1,
        "of": len(scores.heads),
        "active": float(scores.activation_frequency()[head]),
        "n": scores.n,
    }


def _rows_of(table: pd.DataFrame, head: Head) -> pd.DataFrame:
    if {"layer", "head"} <= set(table.columns):
        return table[(table["layer"] == head.layer) & (table["head"] == head.head)]
    for column in ("name", "unit", "head"):
        if column in table.columns:
            return table[table[column].astype(str) == str(head)]
    return table.iloc[:0]
