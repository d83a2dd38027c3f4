"""What patching found, as tables and pages: every head with its interval and q value, and how steady the ranking is."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from experiments.compare import Comparison
from experiments.over_controls import over_controls
from experiments.reporting import Section
from headscope.figures import causal_bars, head_map
from headscope.scores import HeadScores
from headscope.stability import bootstrap_agreement, significant_heads, split_half_agreement

LISTED = 15


def head_effects(maps: Mapping[str, HeadScores]) -> pd.DataFrame:
    """A row for each map and head, largest effect of either sign first: mean, interval over pairs, p, and q in its map.

    p is that of Wilcoxon's signed-rank test against 0 (two-sided), q its Benjamini-Hochberg adjustment over all heads of
    the map.
    """
    parts = []
    for name, scores in maps.items():
        table = scores.to_dataframe()[["name", "layer", "head", "value", "low", "high", "n"]]
        tested = significant_heads(scores, against="two-sided").rename(columns={"fdr": "q"})
        table = table.merge(tested[["name", "p", "q"]], on="name").sort_values(
            "value", key=lambda values: -values.abs(), kind="stable"
        )
        table.insert(0, "map", name)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def steadiness(maps: Mapping[str, HeadScores], k: int) -> pd.DataFrame:
    """A row for each map: overlap of the top k between halves of the pairs and under a bootstrap, and that of chance.

    Empty for a single pair, of which there are no halves.
    """
    rows = []
    for name, scores in maps.items():
        if scores.n < 2:
            continue
        most = min(k, len(scores.heads))
        halves, drawn = split_half_agreement(scores, most), bootstrap_agreement(scores, most)
        rows.append(
            {
                "map": name,
                "k": most,
                "overlap of halves": halves.overlap,
                "low": halves.overlap_interval[0],
                "high": halves.overlap_interval[1],
                "tau of halves": halves.tau,
                "overlap of bootstrap draws": drawn.overlap,
                "overlap by chance": most / len(scores.heads),
            }
        )
    return pd.DataFrame(rows)


def patch_sections(
    maps: Mapping[str, HeadScores],
    heads: pd.DataFrame,
    steady: pd.DataFrame,
    together: Mapping[str, Comparison],
    text: str,
) -> list[Section]:
    """What was asked, a map and a table for each site, the best heads at once beside random ones, and the stability."""
    sections: list[Section] = [("Which heads carry the answer", text)]
    for name, scores in maps.items():
        sections += [
            (f"{name}: every head", head_map(scores)),
            (
                f"{name}: largest effects",
                heads[heads["map"] == name].head(LISTED).drop(columns=["map", "layer", "head"]),
            ),
        ]
        if name in together:
            families = together[name].families()
            shown = families[["condition", "mean", "low", "high", "n", "worst", "best"]]
            shown = shown.rename(columns={"worst": "lowest draw", "best": "highest draw"})
            sections += [
                (f"{name}: the best at once, beside random heads", causal_bars(families, title=f"effect, {name}")),
                ("The same as a table", shown),
                ("Beyond the controls", over_controls(together[name])),
            ]
    if len(steady):
        sections.append(("Would the ranking come out again?", steady))
    return sections


def described(
    task: str, metric: str, ends: tuple[Float[Tensor, " sample"], Float[Tensor, " sample"]], dropped: int, what: str
) -> str:
    """What was patched, on what, and between which ends effects are measured."""
    clean, corrupt = ends
    return (
        f"{what} {len(clean)} pairs of task {task}, which differ in what the answer depends on and match token by token; "
        f"{metric} is {clean.mean():.3g} on clean prompts and {corrupt.mean():.3g} on corrupted ones, and effects are "
        f"shares of each pair's own gap ({dropped} pairs without one are left out). Intervals are 95 % bootstrap over "
        "pairs; p tests each head against 0, q is its false-discovery rate over all heads of the map. Every head is "
        "patched alone, so heads that stand in for one another look small; the largest of many look larger than they are."
    )


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON."""
    return table.to_dict("records")
