"""Heads chosen for calibration as the sections of a report."""

import torch

from experiments.filtering.filters import HeadFilter
from experiments.filtering.held_out import HeldOut
from experiments.reporting import Section
from headscope.figures import causal_bars, head_map
from headscope.model import HookedModel
from headscope.scores import HeadScores
from interventions.act import ACT

_CEILING = 0.99
_RULES = {
    "harmless": "its gain is not below zero by more than its standard error",
    "helpful": "its gain is above zero by more than its standard error",
}


def filter_sections(model: HookedModel, found: HeadFilter, judged: HeldOut, act: ACT) -> list[Section]:
    """What calibrating each head does, which are kept, how steady that is, and what they are worth on other samples."""
    columns = ["condition", "mean", "low", "high", "n", "difference", "difference_low", "difference_high", "p"]
    families = judged.families()
    sections: list[Section] = [
        ("Each head alone", _choice_text(found, act)),
        *[(f"Gain on {name}", head_map(gain_scores(model, found, name))) for name in found.gains],
        ("All candidates", found.table.drop(columns=["layer", "head"]).sort_values("gain", ascending=False)),
        ("How steady the choice is", _steady_text(found)),
        ("The kept heads on other samples", f"{_held_out_text(found)}\n\n{_room(judged)}".strip()),
    ]
    for name, part in families.groupby("task", sort=False):
        sections.append((f"Accuracy on held-out samples: {name}", causal_bars(part, title=f"right answers, {name}")))
    extra = [column for column in ("worst", "best") if families[column].notna().any()]
    return [*sections, ("All numbers", families[["task", *columns, *extra]])]


def gain_scores(model: HookedModel, found: HeadFilter, task: str) -> HeadScores:
    """The gain of every candidate on every sample of a task; NaN for heads that were none."""
    gains = torch.from_numpy(found.gains[task]).float()
    values = torch.full((gains.shape[1], model.n_layers, model.n_heads), torch.nan)
    for head, gain in zip(found.heads, gains, strict=True):
        values[:, head.layer, head.head] = gain
    return HeadScores(values, "gain in accuracy", {"model": model.name, "task": task})


def _choice_text(found: HeadFilter, act: ACT) -> str:
    counts = ", ".join(f"{gains.shape[1]} of {name}" for name, gains in found.gains.items())
    limit = f"{act.threshold:g}" if act.variant == "released" else f"{act.alpha:g} / N"
    return (
        f"Each of {len(found.heads)} heads was calibrated alone: keys that get more than {limit} of its attention on "
        f"average keep {act.beta} of it, and all other keys share the rest, in every row of the prompt, rows summing "
        f"to one. The gain is the change in accuracy on {counts} samples, tasks with equal weight. A head is kept if "
        f"{_RULES[found.rule]} ({found.rule}): {len(found.kept)} of {len(found.heads)}. The rule by which the "
        "authors of the method kept heads is not known."
    )


def _steady_text(found: HeadFilter) -> str:
    steady = found.stability()
    unmoved = int(
        (found.table[[column for column in found.table if column.startswith("gain,")]] == 0).all(axis=1).sum()
    )
    return (
        "Mean Jaccard index of the kept heads with those that bootstrap resamples of the samples would keep: "
        f"{steady.resamples:.2f}; of those kept by one half of the samples with those by the other: "
        f"{steady.halves:.2f}; of random sets of as many heads: {steady.chance:.2f}. Where the first two are no "
        f"larger than the last, the list says nothing.\n\n{unmoved} heads have no net gain or loss on any task: "
        "whether such a head is kept is a matter of the rule, not of evidence."
    )


def _room(judged: HeldOut) -> str:
    plain = judged.table[judged.table["kind"] == "none"]["score"].mean()
    if plain < _CEILING:
        return ""
    return (
        f"The plain model answers {plain:.1%} of these samples, so no head has anything to gain: ask something harder."
    )


def _held_out_text(found: HeadFilter) -> str:
    if not found.kept:
        return "No head was kept, so there is nothing to calibrate; beside the plain model stand all candidates."
    if len(found.kept) == len(found.heads):
        return "Every candidate was kept, so the choice changes nothing: there are no others to compare them with."
    return (
        f"On samples that had no part in the choice: the plain model, ACT on the {len(found.kept)} kept heads, on "
        f"all {len(found.heads)} candidates, and on as many random heads of each layer. Random heads are drawn from "
        "those that were not kept where a layer has enough of them, else from all candidates of the layer, kept "
        "ones among them. Whiskers are 95 % intervals over samples, for random heads over draws and samples."
    )
