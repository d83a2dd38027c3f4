"""Scripted work: treatments beside their controls, on the same samples, with intervals."""

from experiments.compare import Comparison, Condition, against_random, compare

__all__ = ["Comparison", "Condition", "against_random", "compare"]
