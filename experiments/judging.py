"""Hallucination under conditions: metrics with intervals over images, paired with the baseline, controls beside them.

Every question about an image is drawn with it (`headscope.clusters`), all conditions on the same draws. A metric never
stands alone: a task lists length, recall and the share of yes beside hallucination, since a model that says less, or no
to everything, makes up less as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.compare import Condition
from experiments.judging_work import JudgedTask, judging_work
from headscope.clusters import ClusterBootstrap, Metric, cluster_sums
from headscope.errors import UsageError
from headscope.evidence import false_discovery
from headscope.model import HookedModel
from headscope.progress import progress_bar
from headscope.prompting import Hook
from headscope.runs import Run
from headscope.sharing import Executor, do_work
from headscope.tables import html_table
from tasks.manifest import digest

__all__ = ["JudgedTask", "Judgement", "judge"]

_CLUSTER = "image_id"


@dataclass(frozen=True)
class Judgement:
    """A row for each condition and item: condition, kind, family, what was asked and answered, and its counts."""

    table: pd.DataFrame
    metrics: tuple[Metric, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def summary(self, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
        """A row for each metric and condition: value, interval over images, paired difference from the baseline, p, q.

        q is the false-discovery rate over the conditions of one metric. `n` counts items, `images` what is resampled.
        """
        parts, boot = self._drawn(resamples, seed)
        rows = [self._row(parts, name, metric, boot, level) for metric in self.metrics for name in parts.sums]
        summary = pd.DataFrame(rows)
        summary["q"] = summary.groupby("metric")["p"].transform(lambda p: false_discovery(p.to_numpy(float)))
        return summary

    def families(self, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
        """The summary with all random draws of a family in one row: mean over draws, lowest and highest draw.

        Intervals of a family count draws and images as drawn at random. It has no p value: with a handful of draws there
        is no test worth the name; look at the lowest and the highest.
        """
        parts, boot = self._drawn(resamples, seed)
        rows = []
        for metric in self.metrics:
            for name in parts.sums:
                family = parts.about.loc[name, "family"]
                draws = list(parts.about.index[parts.about["family"] == family]) if family else []
                if not family:
                    rows.append(self._row(parts, name, metric, boot, level))
                elif name == draws[0]:  # a family stands where its first draw does
                    rows.append(self._family_row(parts, draws, metric, boot, level))
        columns = [*self._row(parts, next(iter(parts.sums)), self.metrics[0], boot, level), "lowest", "highest"]
        return pd.DataFrame(rows).reindex(columns=columns)

    def __repr__(self) -> str:
        names = ", ".join(metric.name for metric in self.metrics)
        return f"Judgement({self.table['condition'].nunique()} conditions, {len(self.table)} rows, {names})"

    def plot(self, metric: str | None = None) -> Any:
        """Bars of one metric (the first by default): the baseline, the treatments and each family of controls."""
        from headscope.figures import causal_bars

        name = metric or self.metrics[0].name
        if name not in (known := [one.name for one in self.metrics]):
            raise UsageError(f"metric {name!r} is not among those judged; choose one of {', '.join(known)}")
        families = self.families()
        shown = families[families["metric"] == name].dropna(subset="value").rename(columns={"value": "mean"})
        return causal_bars(shown, title=f"{name} by condition")

    def _repr_html_(self) -> str:
        columns = ["metric", "condition", "value", "low", "high", "difference", "difference_low", "difference_high"]
        model = self.meta.get("model")
        caption = f"metrics by condition, {model}" if model else "metrics by condition"
        return html_table(self.families()[[*columns, "lowest", "highest", "images"]], caption)

    def _drawn(self, resamples: int, seed: int) -> tuple["_Parts", ClusterBootstrap]:
        parts = _Parts.of(self.table, self.metrics)
        clusters = len(next(iter(parts.sums.values())))
        return parts, ClusterBootstrap.draw(clusters, resamples=resamples, seed=seed)

    def _row(self, parts: "_Parts", name: str, metric: Metric, boot: ClusterBootstrap, level: float) -> dict[str, Any]:
        found = boot.estimate(metric, parts.sums[name], level=level)
        row = {
            "metric": metric.name,
            "condition": name,
            "kind": parts.about.loc[name, "kind"],
            "family": parts.about.loc[name, "family"],
            **found._asdict(),
            "n": int(parts.about.loc[name, "n"]),
            "images": len(parts.sums[name]),
        }
        if parts.baseline is None or row["kind"] == "none":
            return row | dict.fromkeys(("difference", "difference_low", "difference_high", "p"), np.nan)
        apart = boot.difference(metric, parts.sums[name], parts.baseline, level=level)
        return row | {
            "difference": apart.mean,
            "difference_low": apart.low,
            "difference_high": apart.high,
            "p": apart.p,
        }

    def _family_row(
        self, parts: "_Parts", draws: Sequence[str], metric: Metric, boot: ClusterBootstrap, level: float
    ) -> dict[str, Any]:
        family = [parts.sums[name] for name in draws]
        values = [boot.estimate(metric, sums, level=level).value for sums in family]
        row = {
            "metric": metric.name,
            "condition": f"{parts.about.loc[draws[0], 'family']} ({len(draws)} draws)",
            "kind": parts.about.loc[draws[0], "kind"],
            "family": parts.about.loc[draws[0], "family"],
            **boot.over_draws(metric, family, level=level)._asdict(),
            "n": int(parts.about.loc[draws[0], "n"]),
            "images": len(family[0]),
            "lowest": min(values),
            "highest": max(values),
        }
        if parts.baseline is None:
            return row
        apart = boot.over_draws(metric, family, parts.baseline, level=level)
        return row | {"difference": apart.value, "difference_low": apart.low, "difference_high": apart.high}


def judge(
    model: HookedModel,
    task: JudgedTask,
    conditions: Mapping[str, Sequence[Hook]] | Sequence[Condition],
    *,
    name: str = "",
    max_new_tokens: int | None = None,
    batch_tokens: int = 8192,
    chunk: int = 100,
    run: Run | None = None,
    executor: Executor = do_work,
    progress: bool = False,
) -> Judgement:
    """Answers every item of the task under every condition and counts what the task's metrics are made of.

    A condition without interventions is the baseline. With a `run`, the answers of every `chunk` items of a condition are
    kept there as soon as they are written, and not asked for again; `name` tells several tasks in one run apart, and
    `executor` may have other processes ask (`experiments.executors`). UsageError if what is kept answers other items.
    """
    asked = judging_work(
        model, task, conditions, name=name, max_new_tokens=max_new_tokens, batch_tokens=batch_tokens, chunk=chunk
    )
    with progress_bar(asked.answers, "answers", shown=progress) as update:

        def note(key: str, table: pd.DataFrame) -> None:
            if run is not None:
                asked.refuse_others(run, key, table)
            update(len(table))

        tables = executor(run, asked.work, note)
    about = {"model": model.name, "task": repr(task), "items": digest(asked.items)}
    return Judgement(pd.concat(tables.values(), ignore_index=True), tuple(task.metrics), about)


class _Parts(NamedTuple):
    """What metrics are made of: sums over images for each condition, and what is known of the condition."""

    sums: dict[str, pd.DataFrame]
    about: pd.DataFrame
    baseline: pd.DataFrame | None

    @classmethod
    def of(cls, table: pd.DataFrame, metrics: Sequence[Metric]) -> "_Parts":
        counts = list(dict.fromkeys(count for metric in metrics for count in metric.counts))
        groups = table.groupby("condition", sort=False)
        sums = {name: cluster_sums(part[[_CLUSTER, *counts]], _CLUSTER) for name, part in groups}
        first, *others = sums
        for name in others:
            if list(sums[name].index) != list(sums[first].index) or groups.size()[name] != groups.size()[first]:
                raise UsageError(f"{name!r} and {first!r} were asked different things; judge them on the same items")
        about = groups[["kind", "family"]].first().assign(n=groups.size())
        plain = about.index[about["kind"] == "none"]
        return cls(sums, about, sums[plain[0]] if len(plain) else None)
