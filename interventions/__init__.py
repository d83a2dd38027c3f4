"""Edits of attention heads: frozen values to be put into `model.hooks(...)`, alone or one after another."""

from interventions.ablate import Ablate
from interventions.reference import HeadOutputs, head_outputs
from interventions.scale import Scale
from interventions.var import VAR
from interventions.vhr import VHR

__all__ = ["VAR", "VHR", "Ablate", "HeadOutputs", "Scale", "head_outputs"]
