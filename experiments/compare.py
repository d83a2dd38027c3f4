"""Conditions on the same samples: nothing edited, a treatment, and random controls, with paired differences.

What a table says of a condition: its mean score with an interval over samples, and the paired difference from the
baseline with its interval, p value and the false-discovery rate over all conditions of the table. Random draws of one
kind are also summed up in a row of their own: the mean over draws, with an interval over samples and the range of the
draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from headscope.answers import answer_room, answer_row, check_context, stop_strings
from headscope.errors import UsageError
from headscope.evidence import false_discovery, mean_interval, paired_difference
from headscope.hooks import Intervention, Phase
from headscope.model import HookedModel
from headscope.runs import Run
from headscope.samples import Task
from headscope.scores import HeadScores
from interventions import Ablate, HeadOutputs
from interventions.ablate import Mode

Kind = Literal["none", "treatment", "control"]


@dataclass(frozen=True)
class Condition:
    """Interventions under one name; controls that differ only in their random draw share a `family`."""

    name: str
    interventions: tuple[Intervention, ...] = ()
    kind: Kind = "treatment"
    family: str = ""


@dataclass(frozen=True)
class Comparison:
    """A row for each condition and sample: `condition`, `kind`, `family`, `sample`, `score`, `answer`, and the task's facts."""

    table: pd.DataFrame
    meta: Mapping[str, Any] = field(default_factory=dict)

    def summary(self, *, level: float = 0.95) -> pd.DataFrame:
        """A row for each condition: mean, interval, n, paired difference from the baseline, p and q value."""
        rows = [self._row(name, part, level) for name, part in self.table.groupby("condition", sort=False)]
        summary = pd.DataFrame(rows)
        summary["q"] = false_discovery(summary["p"].to_numpy(float))
        return summary

    def families(self, *, level: float = 0.95) -> pd.DataFrame:
        """The summary with the draws of each family of controls drawn together into one row."""
        summary = self.summary(level=level)
        rows = [row for _, row in summary[summary["family"] == ""].iterrows()]
        for name, part in self.table[self.table["family"] != ""].groupby("family", sort=False):
            per_sample = part.groupby("sample")["score"].mean()
            draws = part.groupby("condition")["score"].mean()
            row = self._row(f"{name} ({len(draws)} draws)", part.iloc[:0].assign(condition=name), level, per_sample)
            rows.append(pd.Series(row | {"kind": "control", "worst": draws.min(), "best": draws.max()}))
        return pd.DataFrame(rows).drop(columns=["q", "family"], errors="ignore").reset_index(drop=True)

    def plot(self) -> Any:
        """Bars of the baseline, the treatments and each family of controls."""
        from headscope.figures import causal_bars

        return causal_bars(self.families(), title=self.meta.get("title", "mean score by condition"))

    def _row(
        self, name: str, part: pd.DataFrame, level: float, scores: "pd.Series | None" = None
    ) -> dict[str, Any]:
        scores = part.set_index("sample")["score"] if scores is None else scores
        low, high = mean_interval(scores.to_numpy(float), level=level)
        row = {
            "condition": name,
            "kind": part["kind"].iloc[0] if len(part) else "control",
            "family": part["family"].iloc[0] if len(part) else "",
            "mean": scores.mean(),
            "low": float(low),
            "high": float(high),
            "n": len(scores),
        }
        baseline = self.table[self.table["kind"] == "none"]
        if baseline.empty or row["kind"] == "none":
            return row | dict.fromkeys(("difference", "difference_low", "difference_high", "p"), np.nan)
        plain = baseline.set_index("sample")["score"].loc[scores.index]
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
    conditions: Mapping[str, Sequence[Intervention]] | Sequence[Condition],
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
    conditions = _as_conditions(conditions)
    samples = list(task.samples(model.tokenizer))
    check_context(model, samples)
    room = max_new_tokens or answer_room(samples, model.tokenizer)
    stop = stop_strings(task)
    tables = []
    for condition in tqdm(conditions, desc="conditions", disable=not progress):
        if run is not None and run.has_cell(condition.name):
            tables.append(run.cell(condition.name))
            continue
        with model.hooks(*condition.interventions):
            answers = model.generate(samples, max_new_tokens=room, stop=stop, batch_tokens=batch_tokens)
        table = pd.DataFrame([answer_row(task, answer) for answer in answers])
        table.insert(0, "sample", range(len(table)))
        table = table.assign(condition=condition.name, kind=condition.kind, family=condition.family)
        if run is not None:
            run.save_cell(condition.name, table)
        tables.append(table)
    return Comparison(pd.concat(tables, ignore_index=True), {"model": model.name, "task": repr(task)})


def against_random(
    scores: HeadScores,
    k: int,
    *,
    draws: int = 5,
    mode: Mode = "zero",
    phase: Phase | None = None,
    reference: HeadOutputs | None = None,
) -> list[Condition]:
    """Nothing, the k best heads removed, and k random others removed: `draws` times from the same layers, and free.

    Both controls leave the k best heads in place. Where a layer has too few other heads to match (UsageError of
    `HeadScores.random`), take a smaller k.
    """
    top = scores.top(k)

    def ablate(heads: Sequence[Any], seed: int = 0) -> tuple[Intervention, ...]:
        return (Ablate(heads, mode, phase=phase, reference=reference, seed=seed),)

    conditions = [Condition("none", (), "none"), Condition(f"top {k}", ablate(top))]
    for match, family in (("layer", f"random {k}, same layers"), ("free", f"random {k}, any layer")):
        for seed in range(draws):
            heads = scores.random(k, seed=seed, exclude=top, match=match)
            conditions.append(Condition(f"{family}, seed {seed}", ablate(heads, seed), "control", family))
    return conditions


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


def _as_conditions(conditions: Mapping[str, Sequence[Intervention]] | Sequence[Condition]) -> list[Condition]:
    if isinstance(conditions, Mapping):
        conditions = [
            Condition(name, tuple(edits), "treatment" if edits else "none") for name, edits in conditions.items()
        ]
    names = [condition.name for condition in conditions]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise UsageError(f"condition {twice[0]!r} is given twice; names must differ" if twice else "no condition given")
    return list(conditions)
