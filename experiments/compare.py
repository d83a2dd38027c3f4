"""Conditions on the same samples: nothing edited, a treatment, and random controls, with paired differences.

What a table says of a condition: its mean score with an interval over samples, and the paired difference from the
baseline with its interval, p value and the false-discovery rate over all conditions of the table. Random draws of one
kind are also summed up in a row of their own: the mean over draws, with an interval over draws and samples and the range
of the draws.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from headscope.answers import answer_row, asked_of, stop_strings
from headscope.draws import Match, draw_heads
from headscope.errors import UsageError
from headscope.evidence import crossed_interval, false_discovery, mean_interval, paired_difference
from headscope.heads import Head
from headscope.hooks import Phase
from headscope.model import HookedModel
from headscope.progress import progress_bar
from headscope.prompting import Hook
from headscope.runs import Run
from headscope.samples import Task
from headscope.sharing import do_cells
from headscope.tables import html_table
from interventions import Ablate, HeadOutputs
from interventions.ablate import Mode

Kind = Literal["none", "treatment", "control"]


@dataclass(frozen=True)
class Condition:
    """Interventions under one name; controls that differ only in their random draw share a `family`.

    A condition without interventions is the baseline, of kind "none".
    """

    name: str
    interventions: tuple[Hook, ...] = ()
    kind: Kind = "treatment"
    family: str = ""

    def __post_init__(self) -> None:
        if not self.interventions:
            object.__setattr__(self, "kind", "none")


@dataclass(frozen=True)
class Comparison:
    """A row for each condition and sample: condition, kind, family, score, answer, and what the task says of it."""

    table: pd.DataFrame
    meta: Mapping[str, Any] = field(default_factory=dict)

    def summary(self, *, level: float = 0.95) -> pd.DataFrame:
        """A row for each condition: mean, interval, n, paired difference from the baseline, p and q value."""
        rows = [
            self._row(name, part, level, part.set_index("sample")["score"])
            for name, part in self.table.groupby("condition", sort=False)
        ]
        summary = pd.DataFrame(rows)
        summary["q"] = false_discovery(summary["p"].to_numpy(float))
        return summary

    def families(self, *, level: float = 0.95) -> pd.DataFrame:
        """The summary with all draws of a family of controls in one row: mean over draws, worst and best draw.

        Intervals of a family count draws and samples as drawn at random. It has no p value: with a handful of draws
        there is no test worth the name; look at the worst and the best.
        """
        alone = self.summary(level=level).drop(columns="q")
        rows = {}  # in the order in which conditions and families first appear
        for row in alone.to_dict("records"):
            family = row["family"]
            if not family:
                rows[row["condition"]] = row
            elif family not in rows:
                rows[family] = self._family_row(family, self.table[self.table["family"] == family], level)
        return pd.DataFrame(list(rows.values())).reindex(columns=[*alone.columns, "worst", "best"])

    def __repr__(self) -> str:
        return f"Comparison({self.table['condition'].nunique()} conditions, {len(self.table)} rows)"

    def plot(self) -> Any:
        """Bars of the baseline, the treatments and each family of controls."""
        from headscope.figures import causal_bars

        return causal_bars(self.families(), title=self.meta.get("title", "mean score by condition"))

    def _repr_html_(self) -> str:
        model = self.meta.get("model")
        caption = f"mean score by condition, {model}" if model else "mean score by condition"
        return html_table(self.families().drop(columns=["kind", "family"]), caption)

    def _family_row(self, family: str, part: pd.DataFrame, level: float) -> dict[str, Any]:
        scores = part.pivot(index="condition", columns="sample", values="score")
        by_draw = scores.mean(axis=1)
        name = f"{family} ({len(scores)} draws)"
        row = self._row(name, part, level, scores.mean()) | {"worst": by_draw.min(), "best": by_draw.max(), "p": np.nan}
        low, high = crossed_interval(scores.to_numpy(float), level=level)
        row["low"], row["high"] = min(row["low"], low), max(row["high"], high)  # never narrower than over samples
        if not np.isnan(row["difference"]):
            apart = scores.to_numpy(float) - self._baseline.loc[scores.columns].to_numpy(float)
            row["difference_low"], row["difference_high"] = crossed_interval(apart, level=level)
        return row

    @property
    def _baseline(self) -> pd.Series:
        return self.table[self.table["kind"] == "none"].set_index("sample")["score"]

    def _row(self, name: str, part: pd.DataFrame, level: float, scores: pd.Series) -> dict[str, Any]:
        low, high = mean_interval(scores.to_numpy(float), level=level)
        row = {
            "condition": name,
            "kind": part["kind"].iloc[0],
            "family": part["family"].iloc[0],
            "mean": scores.mean(),
            "low": float(low),
            "high": float(high),
            "n": len(scores),
        }
        if self._baseline.empty or row["kind"] == "none":
            return row | dict.fromkeys(("difference", "difference_low", "difference_high", "p"), np.nan)
        plain = self._baseline.loc[scores.index]
        apart = paired_difference(scores.to_numpy(float), plain.to_numpy(float), level=level)
        return row | {
            "difference": apart.mean,
            "difference_low": apart.low,
            "difference_high": apart.high,
            "p": apart.p,
        }


def compare(
    model: HookedModel,
    task: Task,
    conditions: Mapping[str, Sequence[Hook]] | Sequence[Condition],
    *,
    max_new_tokens: int | None = None,
    batch_tokens: int = 8192,
    run: Run | None = None,
    progress: bool = False,
) -> Comparison:
    """Answers every sample of the task under every condition and scores the answers.

    A condition without interventions is the baseline. With a `run`, each finished condition is kept there and not
    computed again. Costs one generation of all samples a condition.
    """
    conditions = as_conditions(conditions)
    samples, room = asked_of(model, task, max_new_tokens)
    stop = stop_strings(task)

    def answered(condition: Condition) -> pd.DataFrame:
        with model.hooks(*condition.interventions):
            answers = model.generate(samples, max_new_tokens=room, stop=stop, batch_tokens=batch_tokens)
        table = pd.DataFrame([answer_row(task, answer) for answer in answers])
        table.insert(0, "sample", range(len(table)))
        return table

    table = each_condition(run, conditions, answered, progress=progress)
    return Comparison(table, {"model": model.name, "task": repr(task)})


def each_condition(
    run: Run | None,
    conditions: Sequence[Condition],
    measure: Callable[[Condition], pd.DataFrame],
    *,
    progress: bool,
) -> pd.DataFrame:
    """What is measured under every condition, one below the other, with the condition's name, kind and family.

    With a `run`, each finished condition is kept there and not measured again.
    """
    named = {condition.name: condition for condition in conditions}

    def do(names: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
        for condition in map(named.__getitem__, names):
            about = {"condition": condition.name, "kind": condition.kind, "family": condition.family}
            yield condition.name, measure(condition).assign(**about)

    with progress_bar(len(named), "conditions", shown=progress) as update:
        tables = do_cells(
            run, list(named), do, columns=("sample", "score", "condition"), update=lambda _, __: update(1)
        )
    return pd.concat(tables.values(), ignore_index=True)


def against_random(
    model: HookedModel,
    heads: Sequence[Head],
    *,
    draws: int = 5,
    mode: Mode = "zero",
    phase: Phase | None = None,
    reference: HeadOutputs | None = None,
) -> list[Condition]:
    """These heads removed, and as many random others: `draws` times from the same layers, and from the whole model.

    Put `Condition("none")` before them for a baseline. Random heads never are among those given. A layer
    that has too few others to match is refused (UsageError): remove fewer heads.
    """
    heads = tuple(heads)

    def without(chosen: Sequence[Head], seed: int = 0) -> tuple[Hook, ...]:
        return (Ablate(chosen, mode, phase=phase, reference=reference, seed=seed),)

    with model.hooks(*without(heads)):
        pass  # refuses heads that the model does not have
    conditions = [Condition(f"without {_named(heads)}", without(heads))]
    families: dict[Match, str] = {"layer": "random, same layers", "free": "random, any layer"}
    for match, family in families.items():
        for seed in range(draws):
            drawn = draw_heads(model.heads(), len(heads), seed=seed, exclude=heads, match=match)
            conditions.append(Condition(f"{family}, seed {seed}", without(drawn, seed), "control", family))
    return conditions


def _named(heads: Sequence[Head]) -> str:
    return ", ".join(map(str, heads)) if len(heads) <= 6 else f"{len(heads)} heads"


@torch.no_grad()
def language_loss(
    model: HookedModel, texts: Sequence[str], conditions: Sequence[Condition], *, batch_tokens: int = 8192
) -> pd.DataFrame:
    """Mean next-token loss (nats) on plain text under every condition, a row for each condition and text.

    Shows whether an edit broke the model or only the ability that the task measures.
    """
    rows = []
    for condition in conditions:
        with model.hooks(*condition.interventions):
            for i, text in enumerate(texts):
                logits = model.forward([text]).logits[0, :-1].float()
                target = torch.tensor(model.tokens(text).ids[1:], device=logits.device)
                loss = torch.nn.functional.cross_entropy(logits, target).item()
                rows.append({"condition": condition.name, "family": condition.family, "text": i, "loss": loss})
    return pd.DataFrame(rows)


def as_conditions(conditions: Mapping[str, Sequence[Hook]] | Sequence[Condition]) -> list[Condition]:
    """A list of conditions with names that differ and one baseline at most; UsageError otherwise."""
    if isinstance(conditions, Mapping):
        conditions = [Condition(name, tuple(edits)) for name, edits in conditions.items()]
    names = [condition.name for condition in conditions]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise UsageError(f"condition {twice[0]!r} is given twice; names must differ" if twice else "no condition given")
    baselines = [condition.name for condition in conditions if condition.kind == "none"]
    if len(baselines) > 1:
        raise UsageError(f"{' and '.join(baselines)} both edit nothing; give one baseline to compare with")
    return list(conditions)
