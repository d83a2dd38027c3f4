"""What tasks of lm_eval came to under conditions: means and paired differences, with lm_eval's own numbers beside them.

Most metrics are means over documents, and are compared as everywhere in headscope (`experiments.compare`). Others are of
all documents together (perplexity, F1, BLEU): there the documents are drawn anew, the same for both conditions, and
lm_eval's own function is taken of each draw, so intervals are percentiles and there is no p value.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from experiments.compare import Comparison
from experiments.over_controls import over_controls
from headscope.errors import UsageError

Aggregate = Callable[[list[Any]], float]

_OF = ["task", "filter", "metric"]
_DRAWS = 200
"""Of the documents, for metrics that are no means."""


@dataclass(frozen=True)
class HarnessResults:
    """A row for each task, condition, document, filter and metric, and how the tasks sum up each of their metrics.

    UsageError where two conditions were asked different things, which cannot be compared.
    """

    table: pd.DataFrame
    aggregations: Mapping[str, Mapping[str, Aggregate]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        different = self.table.groupby([*_OF, "sample"])["prompts"].nunique() > 1
        if different.any():
            task, *_, sample = different.idxmax()
            raise UsageError(
                f"document {sample} of {task} was asked in different words under two conditions, so they cannot be "
                "compared; begin a run anew if the task's data have changed, or ask a task that draws from a seed"
            )

    def comparisons(self) -> Iterator[tuple[dict[str, str], Comparison]]:
        """Task, filter and metric, with the scores of their documents, for all metrics that are means."""
        for names, part in self._parts():
            if part["score"].notna().all():
                yield names, Comparison(part, {"title": f"{names['task']}: {names['metric']}"})

    def families(self) -> pd.DataFrame:
        """A row for each task, metric and condition: `Comparison.families`, and lm_eval's own value and standard error.

        All draws of a family of controls are one row, without a standard error of lm_eval.
        """
        tables = []
        for names, part in self._parts():
            is_mean = part["score"].notna().all()
            rows = Comparison(part).families() if is_mean else self._together(names, part)
            own = part.assign(group=part["family"].where(part["family"] != "", part["condition"])).groupby("group")
            group = rows["family"].where(rows["family"] != "", rows["condition"])
            rows["lm_eval"] = group.map(own["lm_eval"].mean())
            rows["lm_eval_stderr"] = group.map(own["lm_eval_stderr"].mean()).where(rows["family"] == "")
            rows["higher_is_better"] = part["higher_is_better"].iloc[0]
            tables.append(rows.assign(**names))
        return pd.concat(tables, ignore_index=True)

    def beyond_controls(self) -> pd.DataFrame:
        """How far each treatment goes beyond its random controls (`over_controls`), for metrics that are means."""
        tables = [over_controls(found).assign(**names) for names, found in self.comparisons()]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def truncated(self) -> dict[str, int]:
        """Requests of each task that were longer than the context, and cut, under the first condition."""
        first = self.table.groupby("task", sort=False)["truncated"].first()
        return {str(name): int(count) for name, count in first.items() if count}

    def _parts(self) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
        for key, part in self.table.groupby(_OF, sort=False):
            yield dict(zip(_OF, key, strict=True)), part

    def _together(self, names: Mapping[str, str], part: pd.DataFrame) -> pd.DataFrame:
        """The rows of `Comparison.families` for a metric of all documents together."""
        aggregate = self.aggregations[names["task"]][names["metric"]]
        items = {name: _items(rows) for name, rows in part.groupby("condition", sort=False)}
        about = part.groupby("condition", sort=False)[["kind", "family"]].first()
        plain = [name for name in items if about.loc[name, "kind"] == "none"]
        grouped: dict[str, list[str]] = {}
        for name in items:
            grouped.setdefault(about.loc[name, "family"] or name, []).append(name)
        drawn = {name: _drawn(aggregate, values) for name, values in items.items()}
        rows = []
        for group, members in grouped.items():
            values = np.array([aggregate(items[name]) for name in members])
            draws = _over_members([drawn[name] for name in members])
            family = about.loc[members[0], "family"]
            row = {
                "condition": f"{group} ({len(members)} draws)" if family else group,
                "kind": about.loc[members[0], "kind"],
                "family": family,
                "mean": values.mean(),
                "n": len(items[members[0]]),
                "p": np.nan,
                **dict(zip(("low", "high"), _percentiles(draws), strict=True)),
            }
            if family:
                row |= {"worst": values.min(), "best": values.max()}
            if plain and row["kind"] != "none":
                row["difference"] = row["mean"] - aggregate(items[plain[0]])
                row["difference_low"], row["difference_high"] = _percentiles(draws - drawn[plain[0]])
            rows.append(row)
        columns = "condition kind family mean low high n difference difference_low difference_high p worst best"
        return pd.DataFrame(rows).reindex(columns=columns.split())


def _items(rows: pd.DataFrame) -> list[Any]:
    return [json.loads(value) for value in rows.sort_values("sample")["value"]]


def _drawn(aggregate: Aggregate, items: Sequence[Any]) -> np.ndarray:
    """The metric of draws of documents, with replacement; the same draws for every condition."""
    rng = np.random.default_rng(0)
    places = rng.integers(len(items), size=(_DRAWS, len(items)))
    return np.array([aggregate([items[place] for place in draw]) for draw in places], dtype=float)


def _over_members(drawn: Sequence[np.ndarray]) -> np.ndarray:
    """The mean over the members of a family, which are drawn anew as well."""
    values = np.array(drawn)
    members = np.random.default_rng(1).integers(len(values), size=(values.shape[1], len(values)))
    return np.array([values[chosen, i].mean() for i, chosen in enumerate(members)])


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
