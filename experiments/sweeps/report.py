"""The page of a sweep: what each unit is worth, the costliest at once beside random ones, and any estimate apart."""

from typing import Any

import pandas as pd

from experiments.compare import Comparison
from experiments.over_controls import over_controls
from experiments.reporting import Section
from experiments.sweeps.screening import Screening
from experiments.sweeps.sweep import Sweep
from headscope.figures import causal_bars, head_map
from headscope.stability import split_half_agreement

HIGHER_IS_WORSE = ("loss", "kl")


def sweep_sections(
    found: Sweep, together: Comparison | None, screening: Screening | None, *, of: str, mode: str, task: str
) -> list[Section]:
    """Text, map, table beside controls, all effects; an estimate has a section of its own, and is called one."""
    units = {"heads": "heads", "pairs": "pairs of heads", "layers": "layers", "groups": "groups of heads"}[of]
    n = found.table["sample"].nunique()
    worse = "above" if found.metric in HIGHER_IS_WORSE else "below"
    text = (
        f"Each of {len(found.units)} {units} was removed ({mode}, every query, prefill and decode) on the same {n} "
        f"prompts of task {task}. The effect is the {found.metric} without it minus that of the whole model, exact: "
        f"{worse} 0 for one that the answer needs. Intervals are over prompts, p is that of the paired difference, q its "
        "false-discovery rate over all units. That many units are compared at once makes the largest effects look larger "
        "than they are."
    )
    sections: list[Section] = [("What each is worth", text)]
    single = all(len(unit.heads) == 1 for unit in found.units)
    if single:
        sections.append((f"Effect on {found.metric}", head_map(found.scores())))
    if together is not None:
        sections += _together(together, found.metric)
    else:
        sections.append(
            (
                "The costliest at once",
                "No control can be drawn: no other heads are left in these layers, or none costs.",
            )
        )
    if screening is not None:
        sections += _screened(screening, found)
    sections.append(("All effects", found.summary()))
    if single and n > 1 and len(found.units) > 1:
        sections.append(("Would the ranking come out again?", steady(found)))
    return sections


def steady(found: Sweep, k: int = 5) -> pd.DataFrame:
    """Overlap of the k costliest heads between halves of the prompts, beside that of chance."""
    scores = found.scores()
    if found.metric not in HIGHER_IS_WORSE:
        scores = type(scores)(-scores.samples, scores.metric, scores.meta)
    most = min(k, len(scores.heads))
    halves = split_half_agreement(scores, most)
    low, high = halves.overlap_interval
    row: dict[str, Any] = {"k": most, "overlap of halves": halves.overlap, "low": low, "high": high}
    return pd.DataFrame([{**row, "tau of halves": halves.tau, "overlap by chance": most / len(scores.heads)}])


def _together(together: Comparison, metric: str) -> list[Section]:
    families = together.families()
    shown = families.drop(columns=["kind", "family"]).rename(columns={"worst": "lowest draw", "best": "highest draw"})
    text = (
        "Removed at once, beside as many random other heads of the same layers (fixed seeds). Intervals of random heads "
        "count draws and prompts. The second table is the paired difference of the treatment from the mean of its "
        "controls; “as_far” counts the draws that move the metric as far from the whole model."
    )
    return [
        ("The costliest at once", text),
        ("The costliest at once, beside random heads", causal_bars(families, title=metric)),
        ("The same as a table", shown),
        ("Beyond the controls", over_controls(together)),
    ]


def _screened(screening: Screening, found: Sweep) -> list[Section]:
    agreed = screening.agreement(found)
    text = (
        f"All heads were estimated to first order (one backward pass), and {len(screening.heads)} of them swept exactly: "
        f"the {len(screening.top)} of largest estimate and {len(screening.random)} drawn at random. Over the random ones "
        f"estimate and exact effect have a rank correlation of {agreed['rank_correlation']:.2f} "
        f"[{agreed['low']:.2f}, {agreed['high']:.2f}] (bootstrap over {agreed['n_heads']} heads). An estimate says where "
        "to look; it is no result, and only the exact effects stand in the tables above."
    )
    return [
        ("The estimate, kept apart", text),
        ("First-order estimate of every head", head_map(screening.estimate)),
        ("Estimate and exact effect", screening.table(found)),
    ]
