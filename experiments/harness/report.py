"""Results of the harness as the sections of a report."""

from collections.abc import Mapping

import pandas as pd

from experiments.harness.results import HarnessResults
from experiments.reporting import Section
from headscope.figures import causal_bars

_SHOWN = "condition mean low high n difference difference_low difference_high p worst best lm_eval lm_eval_stderr"


def harness_sections(found: HarnessResults) -> list[Section]:
    """What was asked, then a figure and the numbers of every metric, and how treatments compare with their controls."""
    sections: list[Section] = [("What is compared", _text(found.truncated()))]
    for (task, metric, chosen), part in found.families().groupby(["task", "metric", "filter"], sort=False):
        name = metric_name(task, metric, chosen)
        bars = part.dropna(subset=["mean", "low", "high"])
        if len(bars):
            sections.append((name, causal_bars(bars, title=metric)))
        columns = [column for column in _SHOWN.split() if part[column].notna().any()]
        sections.append((f"{name}, all numbers", part[columns]))
    beyond = found.beyond_controls()
    if len(beyond):
        sections.append(("Treatments less their random controls", beyond))
    return sections


def metric_name(task: str, metric: str, chosen: str) -> str:
    """`arc_easy: acc`, with the filter where the task has one."""
    return f"{task}: {metric}" + ("" if chosen == "none" else f" ({chosen})")


def own_numbers(families: pd.DataFrame) -> pd.DataFrame:
    """What lm_eval itself reports of every condition."""
    return families[["task", "metric", "filter", "condition", "n", "lm_eval", "lm_eval_stderr"]]


def _text(truncated: Mapping[str, int]) -> str:
    cut = ", ".join(f"{count} of {name}" for name, count in truncated.items())
    return (
        "Every condition is asked the same documents in the same words. Means and differences are over documents, with "
        "95 % intervals; differences are paired with the model as it is. `lm_eval` is what lm_eval reports by itself, "
        "with its standard error, which counts every condition alone: two conditions whose standard errors overlap can "
        "still differ surely, because they answer the same documents. For random controls it is the mean over draws."
        + (f"\n\nLonger than the context, and cut on the left: {cut} requests." if cut else "")
    )
