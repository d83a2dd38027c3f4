"""Several heads patched at once: what the best of them do together, beside as many random others of the same layers.

One head at a time misses heads that stand in for one another, and the best of many heads look better than they are; a set
patched at once, and random sets of the same layers, show both.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.answer_metrics import Metric
from experiments.compare import Comparison
from experiments.patching.activations import Direction, HeadSite
from experiments.patching.effects import Measurements, Positions, last_logits, paired, places_of, refuse_unknown
from headscope.draws import draw_heads
from headscope.heads import Head
from headscope.model import HookedModel
from headscope.progress import with_progress
from headscope.samples import Sample
from interventions.patch import Patch, activations


def ends_of(
    model: HookedModel,
    clean: Sequence[Sample],
    corrupt: Sequence[Sample],
    *,
    metric: Metric = "logit_difference",
    batch_tokens: int = 8192,
) -> tuple[Float[Tensor, " sample"], Float[Tensor, " sample"]]:
    """The metric of every pair on its clean and on its corrupted prompt: the gap that effects are shares of."""
    found = Measurements.empty(len(clean), 1, 1)
    for pairs in paired(model, clean, corrupt, metric, batch_tokens):
        found.note(pairs, metric)
    return found.clean, found.corrupt


def joint_patching(
    model: HookedModel,
    clean: Sequence[Sample],
    corrupt: Sequence[Sample],
    sets: Mapping[str, Sequence[Head]],
    *,
    metric: Metric = "logit_difference",
    site: HeadSite = "z",
    direction: Direction = "denoise",
    positions: Positions = None,
    batch_tokens: int = 8192,
    progress: bool = False,
) -> Float[Tensor, "sample set"]:
    """Effect of patching all heads of each set at once, by each pair's own gap; pairs without a gap are left out.

    Costs a forward pass of all pairs a set, and four more. Errors as for `activation_patching`.
    """
    refuse_unknown("direction", direction, Direction)
    found = Measurements.empty(len(clean), 1, len(sets))
    with torch.no_grad():
        for pairs in paired(model, clean, corrupt, metric, batch_tokens):
            found.note(pairs, metric)
            into, other = (pairs.corrupt, pairs.clean) if direction == "denoise" else (pairs.clean, pairs.corrupt)
            source = activations(model, other, site, batch_tokens=batch_tokens)
            places = places_of(model, into, positions)
            for column, heads in enumerate(with_progress(sets.values(), "patching together", shown=progress)):
                with model.hooks(Patch(source, heads, positions=places)):
                    logits = last_logits(model, into)
                found.patched[list(pairs.places), 0, column] = pairs.measured(metric, logits)
    effects, _ = found.effects(start="corrupt" if direction == "denoise" else "clean", normalise="sample")
    return effects[:, 0]


def patched_beside_random(
    model: HookedModel,
    clean: Sequence[Sample],
    corrupt: Sequence[Sample],
    heads: Sequence[Head],
    *,
    draws: int = 5,
    metric: Metric = "logit_difference",
    site: HeadSite = "z",
    direction: Direction = "denoise",
    positions: Positions = None,
    batch_tokens: int = 8192,
    progress: bool = False,
) -> Comparison:
    """These heads patched at once, and `draws` sets of as many random others of the same layers.

    UsageError where a layer has too few other heads to draw from.
    """
    heads = tuple(heads)
    treatment = f"{', '.join(map(str, heads))} at once"
    family = f"random for {treatment}"
    sets: dict[str, Sequence[Head]] = {treatment: heads}
    for seed in range(draws):
        sets[f"{family}, seed {seed}"] = draw_heads(model.heads(), len(heads), seed=seed, exclude=heads)
    effects = joint_patching(
        model,
        clean,
        corrupt,
        sets,
        metric=metric,
        site=site,
        direction=direction,
        positions=positions,
        batch_tokens=batch_tokens,
        progress=progress,
    )
    rows = [
        pd.DataFrame({"condition": name, "sample": range(len(values)), "score": values.double().numpy()})
        for name, values in zip(sets, effects.T, strict=True)
    ]
    table = pd.concat(rows, ignore_index=True)
    treated = table["condition"] == treatment
    table = table.assign(kind=np.where(treated, "treatment", "control"), family=np.where(treated, "", family))
    return Comparison(table, {"model": model.name, "site": site, "direction": direction})
