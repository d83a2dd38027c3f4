"""Activation patching: which heads, or which layers and places, carry what makes the answer right.

Denoising puts a clean activation into the corrupted run: 0 restores nothing, 1 the whole answer (what suffices).
Noising puts a corrupted one into the clean run: 0 harms nothing, 1 destroys the whole answer (what is needed). The two
differ where heads stand in for one another. Everything an edit changes downstream counts; `path_patching` follows
single paths.

Wang et al. 2022, arXiv 2211.00593; the effect is normalised as in Merullo et al. 2024, arXiv 2310.08744, without their
factor of -100, and for each sample by its own gap unless asked otherwise.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.answer_metrics import Metric
from experiments.patching.effects import (
    Measurements,
    Normalise,
    Positions,
    last_logits,
    named_heads,
    paired,
    places_of,
    refuse_unknown,
)
from headscope.evidence import mean_interval
from headscope.heads import Head
from headscope.hooks import KEY_SITES, Site
from headscope.model import HookedModel
from headscope.progress import with_progress
from headscope.samples import Sample
from headscope.scores import HeadScores
from headscope.tables import html_table
from interventions.patch import Activations, Patch, activations

Direction = Literal["denoise", "noise"]
HeadSite = Literal["z", "pattern", "q", "k", "v"]


def activation_patching(
    model: HookedModel,
    clean: Sequence[Sample],
    corrupt: Sequence[Sample],
    *,
    metric: Metric = "logit_difference",
    site: HeadSite = "z",
    direction: Direction = "denoise",
    heads: "str | Iterable[Head | str | tuple[int, int]] | None" = None,
    positions: Positions = None,
    normalise: Normalise | None = "sample",
    batch_tokens: int = 8192,
    progress: bool = False,
) -> HeadScores:
    """Effect of patching each head alone, at `positions`, on every pair of samples; exact.

    A forward pass of all pairs for every head, and four more. At `k` and `v` heads that share keys are patched together
    and get one value. Heads not asked for are NaN. Pairs without a gap between clean and corrupted are left out, and
    counted in `meta`. UsageError for pairs that do not match token by token, and without any gap.
    """
    every = named_heads(model, heads)

    def patches(source: Activations, into: Sequence[Sample]) -> Mapping[tuple[int, int], Patch]:
        places = places_of(model, into, positions)
        shared = {head: _sharing(model, head) if site in KEY_SITES else head for head in every}
        made = {first: Patch(source, [first], positions=places) for first in shared.values()}
        return {head: made[first] for head, first in shared.items()}

    run = partial(_swept, model, clean, corrupt, metric=metric, site=site, direction=direction)
    found = run(patches, model.n_heads, batch_tokens=batch_tokens, progress=progress)
    effects, dropped = found.effects(start=_start(direction), normalise=normalise)
    asked = {"metric": metric, "site": site, "direction": direction, "positions": positions, "normalise": normalise}
    about = {"model": model.name, "revision": model.revision, "method": "activation patching", **asked}
    return HeadScores(effects, f"{direction} effect of {site} on {metric}", {**about, "samples_dropped": dropped})


@dataclass(frozen=True, eq=False)
class PositionScores:
    """Effect of patching a layer at a place: one value for every sample, layer and place."""

    samples: Float[Tensor, "sample layer position"]
    layers: tuple[int, ...]
    positions: tuple[str | int, ...]
    metric: str
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> Float[Tensor, "layer position"]:
        """Mean over samples."""
        return self.samples.mean(0)

    def to_dataframe(self, *, level: float = 0.95) -> pd.DataFrame:
        """A row for each layer and position: mean and interval over samples."""
        low, high = mean_interval(self.samples, level=level)
        rows = [
            {
                "layer": layer,
                "position": position,
                "value": float(self.values[i, j]),
                "low": float(low[i, j]),
                "high": float(high[i, j]),
                "n": len(self.samples),
            }
            for i, layer in enumerate(self.layers)
            for j, position in enumerate(self.positions)
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        layers, places = self.samples.shape[1:]
        return f"PositionScores({self.metric!r}, {layers} layers x {places} positions, n = {len(self.samples)})"

    def plot(self) -> Any:
        """Heatmap of layer by position, layer 0 at the bottom; hover shows the interval."""
        from experiments.figures import position_map

        return position_map(self.to_dataframe(), self.metric, str(self.meta.get("model", "")))

    def _repr_html_(self) -> str:
        wide = pd.DataFrame(self.values.double().numpy(), columns=list(map(str, self.positions)))
        wide.insert(0, "layer", self.layers)
        return html_table(wide, f"{self.metric}, {self.meta.get('model', '')}: mean, n = {len(self.samples)}")


def position_patching(
    model: HookedModel,
    clean: Sequence[Sample],
    corrupt: Sequence[Sample],
    *,
    positions: Sequence[str | int],
    metric: Metric = "logit_difference",
    site: Site = "resid_pre",
    direction: Direction = "denoise",
    normalise: Normalise | None = "sample",
    batch_tokens: int = 8192,
    progress: bool = False,
) -> PositionScores:
    """Effect of patching each layer that has attention, all its heads at once, at each position alone.

    A position is the name of a mark, or a place. A forward pass of all pairs for every layer and position, and four
    more. Errors as for `activation_patching`.
    """
    layers = model.layers()

    def patches(source: Activations, into: Sequence[Sample]) -> Mapping[tuple[int, int], Patch]:
        named = (position if isinstance(position, str) else (position,) for position in positions)
        places = [places_of(model, into, position) for position in named]
        return {
            (layer, column): Patch(source, layers=(layer,), positions=place)
            for layer in layers
            for column, place in enumerate(places)
        }

    run = partial(_swept, model, clean, corrupt, metric=metric, site=site, direction=direction)
    found = run(patches, len(positions), batch_tokens=batch_tokens, progress=progress)
    effects, dropped = found.effects(start=_start(direction), normalise=normalise)
    asked = {"metric": metric, "site": site, "direction": direction, "normalise": normalise}
    about = {"model": model.name, "revision": model.revision, "method": "activation patching", **asked}
    name = f"{direction} effect of {site} on {metric}"
    meta = {**about, "samples_dropped": dropped}
    return PositionScores(effects[:, list(layers)], layers, tuple(positions), name, meta)


def _swept(
    model: HookedModel,
    clean: Sequence[Sample],
    corrupt: Sequence[Sample],
    patches: Callable[[Activations, Sequence[Sample]], Mapping[tuple[int, int], Patch]],
    columns: int,
    *,
    metric: Metric,
    site: Site,
    direction: Direction,
    batch_tokens: int,
    progress: bool,
) -> Measurements:
    """Every patch that `patches` makes of a batch, run by itself: measured at [layer, column]."""
    refuse_unknown("direction", direction, Direction)
    found = Measurements.empty(len(clean), model.n_layers, columns)
    with torch.no_grad():
        for pairs in paired(model, clean, corrupt, metric, batch_tokens):
            found.note(pairs, metric)
            into, other = (pairs.corrupt, pairs.clean) if direction == "denoise" else (pairs.clean, pairs.corrupt)
            made = patches(activations(model, other, site, batch_tokens=batch_tokens), into)
            done: dict[int, Tensor] = {}
            for (layer, column), patch in with_progress(made.items(), "patching", shown=progress):
                if id(patch) not in done:  # one patch may stand for several heads
                    with model.hooks(patch):
                        done[id(patch)] = pairs.measured(metric, last_logits(model, into))
                found.patched[list(pairs.places), layer, column] = done[id(patch)]
    return found


def _start(direction: Direction) -> Literal["clean", "corrupt"]:
    return "corrupt" if direction == "denoise" else "clean"


def _sharing(model: HookedModel, head: Head) -> Head:
    """The first of the heads that share this head's keys."""
    site = next(site for site in model.sites_of() if site.layer == head.layer)
    group = site.n_heads // site.n_kv_heads
    return Head(head.layer, head.head // group * group)
