"""Scripted work: treatments beside their controls, on the same samples, with intervals."""

from experiments.attribution import Agreement, agreement, screen
from experiments.choosing import choice_scores, compare_choices
from experiments.compare import Comparison, Condition, against_random, compare
from experiments.controls import with_controls
from experiments.cut_sinks import Removal, sink_removal
from experiments.filtering import HeadFilter, filter_heads
from experiments.judging import Judgement, judge
from experiments.patched_together import joint_patching
from experiments.patching import PositionScores, activation_patching, position_patching
from experiments.paths import path_patching
from experiments.sweep import Sweep, run_sweep
from experiments.units import Unit, groups, units

__all__ = [
    "Agreement",
    "Comparison",
    "Condition",
    "HeadFilter",
    "Judgement",
    "PositionScores",
    "Removal",
    "Sweep",
    "Unit",
    "activation_patching",
    "against_random",
    "agreement",
    "choice_scores",
    "compare",
    "compare_choices",
    "filter_heads",
    "groups",
    "joint_patching",
    "judge",
    "path_patching",
    "position_patching",
    "run_sweep",
    "screen",
    "sink_removal",
    "units",
    "with_controls",
]
