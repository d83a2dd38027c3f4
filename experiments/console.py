"""Results as tables in a terminal."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from headscope.check import SelfCheck
from headscope.scores import HeadScores

console = Console(highlight=False)
console_errors = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One line for the reader, printed as it is."""
    console.print(text, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """A result for programs, on standard output; NaN, which JSON does not have, becomes null."""
    say(json.dumps(_finite(value), default=str, allow_nan=False, indent=2, ensure_ascii=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_check(check: SelfCheck) -> None:
    """The facts of a self-check, a line each."""
    table = Table(
        "fact", "value", "bar", "", "note", title=f"self-check of {escape(check.model)}", title_justify="left"
    )
    marks = {True: "[green]ok[/]", False: "[bold red]FAILED[/]", None: "[dim]noted[/]"}
    for row in check.rows:
        table.add_row(row.fact, f"{row.value:.3g}", row.bar, marks[row.passed], row.note)
    console.print(table)


def print_heads(scores: HeadScores, *, threshold: float, most: int = 20) -> None:
    """The best heads with their intervals, down to a threshold."""
    frame = head_table(scores)
    above = frame[frame["value"] >= threshold].head(most)
    count = len(scores.above(threshold))
    title = f"{scores.metric}: {count} of {len(frame)} heads at or above {threshold} (n = {scores.n})"
    table = Table("head", "score", "95 % interval", "active in", title=title, title_justify="left")
    for row in above.itertuples():
        table.add_row(
            row.name, f"{row.value:.3f}", f"[{row.low:.3f}, {row.high:.3f}]".replace("[", r"\["), f"{row.active:.0%}"
        )
    console.print(table)


def head_table(scores: HeadScores) -> pd.DataFrame:
    """The head-score table, best head first, with the share of samples in which a head scores at all."""
    frame = scores.to_dataframe()
    active = scores.activation_frequency()
    frame["active"] = [float(active[row.layer, row.head]) for row in frame.itertuples()]
    return frame.sort_values("value", ascending=False, kind="stable").reset_index(drop=True)


def print_comparison(summary: pd.DataFrame, *, title: str) -> None:
    """Conditions with mean, interval and paired difference from the baseline; loss on plain text where it is known."""
    losses = ["loss"] if "loss" in summary else []
    columns = ["condition", "mean", "95 % interval", "range of draws", "n", "difference", "p", *losses]
    table = Table(*columns, title=title, title_justify="left")
    colours = {"none": "", "treatment": "bold", "control": "dim"}
    for row in summary.itertuples():
        interval = rf"\[{row.low:.3f}, {row.high:.3f}]"
        difference = (
            ""
            if pd.isna(row.difference)
            else rf"{row.difference:+.3f} \[{row.difference_low:+.3f}, {row.difference_high:+.3f}]"
        )
        p = "" if pd.isna(row.p) else ("< 0.001" if row.p < 0.001 else f"{row.p:.3f}")
        style = colours[row.kind]
        loss = [f"{row.loss:.2f}"] if losses else []
        draws = "" if pd.isna(row.worst) else f"{row.worst:.2f}, {row.best:.2f}"
        table.add_row(row.condition, f"{row.mean:.3f}", interval, draws, str(row.n), difference, p, *loss, style=style)
    console.print(table)


def print_metrics(families: pd.DataFrame, *, title: str) -> None:
    """A table for each metric: conditions with interval, paired difference from the baseline, and the range of draws."""
    for metric, part in families.groupby("metric", sort=False):
        renamed = {"value": "mean", "lowest": "worst", "highest": "best"}
        shown = part.rename(columns=renamed).dropna(subset=["mean"])
        if len(shown):
            print_comparison(
                shown.reindex(columns=[*shown.columns, *{"worst", "best"} - set(shown)]), title=f"{title}: {metric}"
            )


def print_table(rows: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """Plain rows under their keys."""
    if not rows:
        return say(f"{title}: none")
    table = Table(*rows[0], title=escape(title), title_justify="left")
    for row in rows:
        table.add_row(*("" if value is None else escape(str(value)) for value in row.values()))
    return console.print(table)
