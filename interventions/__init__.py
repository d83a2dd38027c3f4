"""Edits of attention heads: frozen values to be put into `model.hooks(...)`, alone or one after another."""

from interventions.ablate import Ablate
from interventions.act import ACT
from interventions.boost import ImageBoost
from interventions.imbalance import ImbalanceFix
from interventions.knockout import KnockOut
from interventions.mutual import MutualMask
from interventions.named import parse_interventions
from interventions.patch import Activations, Patch, activations
from interventions.recycled import RecycledAttention
from interventions.reference import HeadOutputs, head_outputs
from interventions.scale import Scale
from interventions.steer import Project, Steer
from interventions.topk import TopKeys
from interventions.var import VAR
from interventions.vhr import VHR
from interventions.windows import SinkWindow

__all__ = [
    "ACT",
    "VAR",
    "VHR",
    "Ablate",
    "Activations",
    "HeadOutputs",
    "ImageBoost",
    "ImbalanceFix",
    "KnockOut",
    "MutualMask",
    "Patch",
    "Project",
    "RecycledAttention",
    "Scale",
    "SinkWindow",
    "Steer",
    "TopKeys",
    "activations",
    "head_outputs",
    "parse_interventions",
]
