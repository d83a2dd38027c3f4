"""Scripted work: treatments beside their controls, on the same samples, with intervals."""

from experiments.choosing import choice_scores, compare_choices
from experiments.compare import Comparison, Condition, against_random, compare
from experiments.controls import with_controls
from experiments.filtering import HeadFilter, filter_heads
from experiments.judging import Judgement, judge
from experiments.patching import PositionScores, activation_patching, position_patching
from experiments.paths import path_patching
from experiments.sweep import Sweep, run_sweep
from experiments.units import Unit, groups, units

__all__ = [
    "Comparison",
    "Condition",
    "HeadFilter",
    "Judgement",
    "PositionScores",
    "Sweep",
    "Unit",
    "activation_patching",
    "against_random",
    "choice_scores",
    "compare",
    "compare_choices",
    "filter_heads",
    "groups",
    "judge",
    "path_patching",
    "position_patching",
    "run_sweep",
    "units",
    "with_controls",
]
