"""Reports of runs: what the figures show, in the order a reader asks."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from experiments.console import head_table
from experiments.judging import Judgement
from head_analysis import Retrieval
from headscope.check import SelfCheck
from headscope.figures import (
    causal_bars,
    frequency_scatter,
    head_map,
    length_depth_map,
    report,
    score_histogram,
)
from headscope.files import write_over
from headscope.runs import Run

Section = tuple[str, object]


def retrieval_sections(found: Retrieval, threshold: float) -> list[Section]:
    """Which heads retrieve, how many, how steadily, and where the model answers and its best head copies."""
    scores, answers = found.scores, found.answers
    above = scores.above(threshold)
    heads = head_table(scores)
    listed = heads.loc[heads["value"] >= threshold, ["name", "value", "low", "high", "active", "n"]]
    text = (
        f"{len(above)} of {len(heads)} heads score {threshold} or more: in the row that chooses an answer token, their "
        "strongest attention lies on that very token inside the needle. Scores are means over prompts, with 95 % "
        "bootstrap intervals; “active” is the share of prompts in which a head copied at all. Attention is read in "
        f"decode rows only. {_answered(answers)}"
    )
    sections: list[Section] = [
        ("Which heads retrieve", text),
        ("Score of every head", head_map(scores, threshold=threshold)),
        (f"Heads at {threshold} or more", listed),
        ("How many heads retrieve", score_histogram(scores)),
        ("How steadily", frequency_scatter(scores)),
    ]
    if {"length", "depth"} <= set(answers.columns):
        (best,) = scores.top(1)
        copied = answers.assign(**{str(best): found.every_score[:, best.layer, best.head].numpy()})
        sections.append(("Where the model answers", length_depth_map(answers)))
        sections.append((f"Where the best head, {best}, copies", length_depth_map(copied, str(best))))
    return sections


def causal_sections(families: pd.DataFrame, text: str) -> list[Section]:
    """What removing heads does, beside its controls."""
    columns = ["condition", "mean", "low", "high", "n", "difference", "difference_low", "difference_high", "p"]
    extra = [name for name in ("worst", "best", "loss") if name in families]
    return [
        ("What happens without them", text),
        ("Answers right, by condition", causal_bars(families, title="answers right")),
        ("The same as a table", families[columns + extra]),
    ]


def judgement_sections(name: str, found: Judgement) -> list[Section]:
    """One task's metrics by condition: a figure for each metric, then all numbers."""
    families = found.families()
    text = (
        f"{families['n'].iloc[0]} answers about {families['images'].iloc[0]} images under every condition. Whiskers are "
        "95 % bootstrap intervals over images, all questions of an image together and the same draws for all conditions; "
        "those of random controls count draws as well. Read hallucination beside length, recall and the share of yes: "
        "whoever says less makes up less."
    )
    sections: list[Section] = [(name, text)]
    for metric, part in families.groupby("metric", sort=False):
        bars = part.rename(columns={"value": "mean"}).dropna(subset=["mean", "low", "high"])
        if len(bars):
            sections.append((f"{name}: {metric}", causal_bars(bars, title=str(metric))))
    columns = ["metric", "condition", "value", "low", "high", "difference", "difference_low", "difference_high", "p"]
    extra = [column for column in ("lowest", "highest", "n", "images") if column in families]
    return [*sections, (f"{name}: all numbers", families[columns + extra])]


def check_section(check: SelfCheck) -> Section:
    """The self-check as a table."""
    table = pd.DataFrame(check.to_records())
    table["passed"] = table["passed"].map({True: "ok", False: "FAILED", None: "noted"})
    return "Proof that the hooks do what they claim", table


def write_report(run: Run, title: str, sections: Sequence[Section]) -> None:
    """report.html in the run's folder."""
    page = report(title, sections)
    write_over(run.path / "report.html", partial(write_page, page))


def write_page(page: str, path: Path) -> None:
    """A page in a file."""
    path.write_text(page, "utf-8")


def _answered(answers: pd.DataFrame) -> str:
    return f"The model answered {answers['score'].mean():.1%} of {len(answers)} prompts word for word."
