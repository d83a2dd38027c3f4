"""Edits of attention heads: frozen values to be put into `model.hooks(...)`, alone or one after another."""

from interventions.ablate import Ablate
from interventions.reference import HeadOutputs, head_outputs

__all__ = ["Ablate", "HeadOutputs", "head_outputs"]
