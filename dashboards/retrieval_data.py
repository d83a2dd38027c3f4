"""What a run knows of retrieval: scores, the answers they come from, and what removing heads does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dashboards.reading import RunCard, open_run, run_table, table_columns
from headscope.errors import HeadscopeError, UsageError
from headscope.heads import Head
from headscope.runs import Run
from headscope.scores import HeadScores

SCORE = "retrieval"
_ANSWERS = ("retrieval_answers", "answers")
_COMPARED = {"condition", "kind", "mean", "low", "high"}


def answers_of(run: Run) -> tuple[str, pd.DataFrame]:
    """Name and rows of the table of answers that heads were scored on; UsageError where a run has none."""
    for name in _ANSWERS:
        if name in run.table_names():
            table = run_table(run, name)
            if {"length", "depth", "score"} <= set(table.columns) and "condition" not in table.columns:
                if table["score"].isna().any():
                    raise UsageError(f"{name!r} of {run.path.name} has answers without a score; make the run again")
                return name, table
    raise UsageError(f"{run.path.name} holds no answers by length and depth; a run of `headscope heads retrieval` does")


def with_head(answers: pd.DataFrame, scores: HeadScores, head: Head) -> pd.DataFrame:
    """Answers that were scored, with the head's own score in a column of its name.

    UsageError where the scores and the answers do not belong together.
    """
    kept = answers[answers["kept"].astype(bool)] if "kept" in answers.columns else answers
    if len(kept) != scores.n:
        raise UsageError(
            f"there are scores of {scores.n} samples and {len(kept)} scored answers, so they cannot be put side by "
            "side; make the run again"
        )
    return kept.assign(**{str(head): scores.samples[:, head.layer, head.head].double().tolist()})


def causal_runs(runs: Path, cards: Sequence[RunCard], card: RunCard) -> tuple[str, ...]:
    """Names of the runs on the model of this one that removed heads beside controls, itself in front if it did."""
    found = [one.name for one in cards if "families" in one.tables and one.shares_model(card) and _compares(runs, one)]
    return tuple(sorted(found, key=lambda name: name != card.name))


def families_of(run: Run) -> pd.DataFrame:
    """Conditions and controls of a run; UsageError where the table is of another kind."""
    table = run_table(run, "families")
    if not set(table.columns) >= _COMPARED:
        raise UsageError(f"the conditions of {run.path.name} have no mean with an interval; see its report instead")
    return table


def how_removed(facts: Mapping[str, Any]) -> str:
    """What removed means in a run, and when: `zero ablation, prefill and decode`; empty where that is not said."""
    config = facts.get("config")
    mode, phase = (config.get(name) for name in ("mode", "phase")) if isinstance(config, Mapping) else (None, None)
    if facts.get("command") == "demo":
        mode = "zero"  # its config does not say; it knows no other
    return f"{mode} ablation, {phase or 'prefill and decode'}" if isinstance(mode, str) else ""


def _compares(runs: Path, card: RunCard) -> bool:
    try:
        return set(table_columns(open_run(runs, card.name), "families")) >= _COMPARED
    except HeadscopeError:
        return False
