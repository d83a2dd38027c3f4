"""Random counterparts of interventions: the same edit of other heads or tokens, drawn at random."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from experiments.compare import Condition
from headscope.draws import draw_heads
from headscope.model import HookedModel
from interventions import ACT, VAR, VHR, Project, Steer


def with_controls(model: HookedModel, name: str, interventions: Sequence[Any], *, draws: int = 5) -> list[Condition]:
    """The treatment, and `draws` controls in which each intervention is replaced by its random counterpart.

    Interventions on named heads get as many others of the same layers, never one of those named; `VHR` as many heads of
    the layers it chooses in; `VAR` and `ACT` as many other tokens as donors; `Steer` and `Project` directions of the same
    length at the same places. What has no counterpart stays as it is; a treatment of such interventions only has no
    control. UsageError where too few heads are left to draw from.
    """
    treatment = Condition(name, tuple(interventions))
    if all(_drawn(model, one, 0) is None for one in interventions):
        return [treatment]
    family = f"random for {name}"
    controls = [
        Condition(
            f"{family}, seed {seed}",
            tuple(_drawn(model, one, seed) or one for one in interventions),
            "control",
            family,
        )
        for seed in range(draws)
    ]
    return [treatment, *controls]


def _drawn(model: HookedModel, intervention: Any, seed: int) -> Any:
    """The intervention's counterpart for one seed; None if it has none."""
    if isinstance(intervention, VAR):
        return replace(intervention, donors="random", seed=seed)
    if isinstance(intervention, Steer | Project):
        return intervention.random_like(seed)
    heads = getattr(intervention, "heads", None)
    if isinstance(intervention, ACT) and not heads:
        return replace(intervention, lowers="random", seed=seed)
    if heads:
        stack = getattr(intervention, "stack", None)
        drawn = draw_heads(model.heads(stack), len(heads), seed=seed, exclude=heads, match="layer")
        return replace(intervention, heads=drawn)
    if isinstance(intervention, VHR):
        return replace(intervention, choice="random", seed=seed)
    return None
