"""All that the runs of one folder know of one head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from dashboards.head_rows import rows_of_head
from dashboards.reading import RunCard, run_scores
from dashboards.retrieval_data import families_of, how_removed
from headscope.errors import HeadscopeError
from headscope.evidence import mean_interval
from headscope.heads import Head
from headscope.runs import Run
from headscope.scores import HeadScores

_DERIVED = frozenset({"class_scores", "head_scores"})
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
        if standing := _standing(scores, head):
            rows.append({"run": run.path.name, "score": name, **standing})
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
            rows = rows_of_head(run, name, head)
        except HeadscopeError:
            continue
        if rows is not None and len(rows):
            found[name] = rows
    return found


def removal_rows(run: Run, head: Head) -> pd.DataFrame:
    """What happened in a run that removed this head, alone or among others: a row for each condition; else empty.

    `removed` says which heads, `how` what that means and in which phase.
    """
    try:
        config = run.facts.get("config")
        removed = config.get("heads") if isinstance(config, Mapping) else None
        if not isinstance(removed, list) or str(head) not in removed or "families" not in run.table_names():
            return pd.DataFrame()
        table = families_of(run)
    except HeadscopeError:
        return pd.DataFrame()
    columns = ["condition", "kind", "mean", "low", "high", "n", "difference", "p"]
    about = {"run": run.path.name, "removed": ", ".join(map(str, removed)), "how": how_removed(run.facts)}
    return table.reindex(columns=columns).assign(**about)


def runs_of_model(cards: Sequence[RunCard], name: str) -> tuple[str, ...]:
    """Names of the runs made on the same model as this run, which comes first; this one alone where it names no model."""
    mine = next((card for card in cards if card.name == name), RunCard(name))
    return (name, *(card.name for card in cards if card.name != name and card.shares_model(mine)))


def _standing(scores: HeadScores, head: Head) -> dict[str, object]:
    """Nothing for a head that the scores do not have."""
    exists = scores.exists
    if head.layer >= exists.shape[0] or head.head >= exists.shape[1] or not exists[head]:
        return {}
    values, mine = scores.values, scores.samples[:, head.layer, head.head]
    low, high = mean_interval(mine[:, None])
    return {
        "metric": scores.metric,
        "value": float(values[head]),
        "low": float(low[0]),
        "high": float(high[0]),
        "rank": int((values[exists] > values[head]).sum()) + 1,
        "of": int(exists.sum()),
        "active": float((mine > 0).double().mean()),
        "n": scores.n,
    }
