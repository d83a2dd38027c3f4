"""Interventions by name, for the command line and the dashboard: `VAR(), VHR(alpha=2)`."""

from collections.abc import Mapping
from typing import Any

from headscope.errors import UsageError
from headscope.heads import Head
from headscope.literals import parse_calls
from interventions.ablate import Ablate
from interventions.act import ACT
from interventions.boost import ImageBoost
from interventions.imbalance import ImbalanceFix
from interventions.knockout import KnockOut
from interventions.mutual import MutualMask
from interventions.recycled import RecycledAttention
from interventions.scale import Scale
from interventions.topk import TopKeys
from interventions.var import VAR
from interventions.vhr import VHR
from interventions.windows import SinkWindow

_KINDS = (
    ACT,
    Ablate,
    ImageBoost,
    ImbalanceFix,
    KnockOut,
    MutualMask,
    RecycledAttention,
    Scale,
    SinkWindow,
    TopKeys,
    VAR,
    VHR,
)
INTERVENTIONS: Mapping[str, type] = {kind.__name__: kind for kind in _KINDS}
"""What can be named; a patch cannot, since it holds tensors."""


def parse_interventions(text: str) -> tuple[Any, ...]:
    """The interventions that a text describes, in order; no code is run. UsageError as for `literals.parse_calls`."""
    found = parse_calls(text, {**INTERVENTIONS, "Head": Head})
    if any(isinstance(one, Head) for one in found):
        raise UsageError(f"{text!r} names a head, which edits nothing by itself; write for example Ablate('L2H5')")
    return found
