"""Scripted work: treatments beside their controls, on the same samples, with intervals."""

from experiments.compare import Comparison, Condition, against_random, compare
from experiments.controls import with_controls
from experiments.filtering.choosing import choice_scores, compare_choices
from experiments.filtering.filters import HeadFilter, filter_heads
from experiments.judging import Judgement, judge
from experiments.patching.activations import PositionScores, activation_patching, position_patching
from experiments.patching.paths import path_patching
from experiments.patching.together import joint_patching
from experiments.sinks.removal import Removal, sink_removal
from experiments.sweeps.attribution import Agreement, agreement, screen
from experiments.sweeps.sweep import Sweep, run_sweep
from experiments.sweeps.units import Unit, groups, units

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
