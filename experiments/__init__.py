"""Scripted work: treatments beside their controls, on the same samples, with intervals."""

from experiments.choosing import choice_scores, compare_choices
from experiments.compare import Comparison, Condition, against_random, compare
from experiments.controls import with_controls
from experiments.filtering import HeadFilter, filter_heads
from experiments.judging import Judgement, judge
from experiments.sweep import Sweep, run_sweep
from experiments.units import Unit, groups, units

__all__ = [
    "Comparison",
    "Condition",
    "HeadFilter",
    "Judgement",
    "Sweep",
    "Unit",
    "against_random",
    "choice_scores",
    "compare",
    "compare_choices",
    "filter_heads",
    "groups",
    "judge",
    "run_sweep",
    "units",
    "with_controls",
]
