"""Boosts the image tokens that the vision tower itself attends to (Arif et al. 2025, arXiv 2501.12206).

Two sets of image tokens are taken from the tower's attention, once for a prompt. Local tokens: the quarter to which the
class token attends most in the tower's first layer. Summary tokens: those to which it attends more than Q3 + 1.5 IQR in
the layer before the last; they are taken out of the first set. Then, before the softmax of the language model, a score
s of a key of the first set becomes s + alpha |s|, of the second s + beta |s|. As in PAI, on which this builds, negative
scores move towards zero and positive ones grow. Rows still sum to one; nothing is switched off. Queries: those that
choose a token, in prefill and decode (see `interventions.boost`, also for a single pass). Layers: all from the third.

What the paper claims and what its code does differ, and both can be had by name.
released   every head alike, beta 0.3. A "spatial" set exists in the code but never joins: its share is fixed at 0, and
           it ranks patches by the sums of softmax rows, which are all one, so the order would be rounding noise. The
           default, since it is the one that is written down in full.
paper      the local set is joined by a spatial one, the 5 % of patches that receive most attention from all patches in
           the first layer; alpha is weighed by how much a head looks at the image; beta 0.4, the best of the paper's
           table. The paper gives no formulas for the first two. Here a head's weight is its mean attention to the image
           over the prompt's text behind it, as a share of the largest in the layer, without what this and other
           operators change of the rows of that layer.

A tower without a class token (SigLIP, Qwen-VL) gives none of its attention to rank by. There patches are ranked by the
attention that they receive from all patches: `source="received"`. That is another measure than the paper's.

Tokens are ranked within a sample, over all its images and tiles. Where several patches make one token, it has their
mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import floor
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headscope.bridge_hooks import ForBridges
from headscope.engine.inputs import AttentionInputs
from headscope.engine.mass import group_mass
from headscope.errors import UsageError
from headscope.hooks import Context, Site, Where
from headscope.model import HookedModel
from headscope.prompting import Prompt
from interventions.boost import boosted, choosing, later_layers
from interventions.places import at_keys, image_columns, image_keys, prompt_places
from interventions.tower import Source, TowerAttention, has_class_token, refuse_unknown, token_ratings

Variant = Literal["released", "paper"]
_BETA = {"released": 0.3, "paper": 0.4}


@dataclass(frozen=True)
class ImbalanceFix(ForBridges):
    """Raises scores of local image tokens by `alpha` times their size, of summary tokens by `beta` times.

    `local` is the share of a sample's image tokens that are local, `spatial` the share that the paper's variant adds.
    `source` is what ranks them: the tower's class token where it has one, unless given. A sample without an image is
    left alone. Raises UsageError for shares outside 0..1, for models without image tokens, and for a tower that is out
    of sight or lacks the class token asked for; UnsupportedModelError where tokens cannot be led back to patches. Costs
    one row, or all rows, of two layers of the tower; for the paper's variant also one more attention call a layer over
    the prompt.
    """

    variant: Variant = "released"
    alpha: float | int = 0.7
    beta: float | int | None = None
    local: float | int = 0.25
    spatial: float | int = 0.05
    source: Source | None = None
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.variant not in _BETA:
            raise UsageError(f"variant {self.variant!r} of ImbalanceFix is not known; use {' or '.join(_BETA)}")
        if self.source not in ("class", "received", None):
            raise UsageError(f"ImbalanceFix's source is {self.source!r}; use 'class', 'received', or None to choose")
        for name, share in {"local": self.local, "spatial": self.spatial}.items():
            if not 0 <= share <= 1:
                raise UsageError(f"ImbalanceFix's {name} is {share}, but it is a share of tokens; give 0 to 1")
        for name, factor in {"alpha": self.alpha, "beta": self.summary}.items():
            if not factor >= 0:
                raise UsageError(f"ImbalanceFix's {name} is {factor}; give a number of at least 0")

    @property
    def summary(self) -> float:
        """beta: 0.3 for the released code and 0.4 for the paper, unless given."""
        return _BETA[self.variant] if self.beta is None else float(self.beta)

    def prepared(self, model: HookedModel) -> "ImbalanceFix":
        """With the source and layers of this model filled in."""
        model.require_images("ImbalanceFix")
        refuse_unknown(model.hf)
        if "vision" not in model.stacks or len(model.layers("vision")) < 2:
            raise UsageError(
                f"ImbalanceFix reads two layers of the vision tower, and no such tower of {model.name} was seen; load it "
                "with its processor, or pass example={...} with an image"
            )
        known = has_class_token(model.hf)
        if self.source == "class" and not known:
            raise UsageError(f"the vision tower of {model.name} has no class token; use source='received'")
        layers = later_layers(model, "ImbalanceFix") if self.layers is None else self.layers
        ready = replace(self, source=self.source or ("class" if known else "received"), layers=layers)
        model.validate(_Sensitivity(layers))
        return ready

    def begin(self, prompt: Prompt) -> Sequence[Any]:
        """Reads the tower while the prompt is read, and edits scores with what it says."""
        if not image_columns(prompt, "ImbalanceFix").any():
            return []
        tower, known = prompt.model.layers("vision"), has_class_token(prompt.model.hf)
        assert self.source is not None and self.layers is not None  # noqa: PT018  # filled in by `prepared`
        ranks = TowerAttention(self.source, (tower[0], tower[-2]), known)
        received = TowerAttention("received", tower[:1], known)
        sets = _Sets(self, prompt, ranks, received, {})
        weights = _Sensitivity(self.layers)
        readers = [ranks, received, weights] if self.variant == "paper" else [ranks]
        return [*readers, *(_Raise(sets, weights, where) for where in choosing(self.layers))]


@dataclass(frozen=True)
class _Sets:
    """The two sets of a prompt, made when first asked for, once the tower has run."""

    fix: ImbalanceFix
    prompt: Prompt
    ranks: TowerAttention
    received: TowerAttention
    made: dict[str, Tensor] = field(compare=False)

    def amounts(self) -> tuple[Tensor, Tensor]:
        """Alpha for local tokens and beta for summary tokens, at every place of a sample [sample place]."""
        if not self.made:
            self.made.update(zip(("local", "summary"), self._amounts(), strict=True))
        return self.made["local"], self.made["summary"]

    def _amounts(self) -> list[Tensor]:
        first, late = (self._rated(self.ranks, layer) for layer in self.ranks.layers)
        wide = self.fix.variant == "paper"
        spatial = self._rated(self.received, self.received.layers[0]) if wide else [None] * len(first)
        shares = float(self.fix.local), float(self.fix.spatial)
        sets = [
            token_sets(*rated, share=shares[0], spatial_share=shares[1])
            for rated in zip(first, late, spatial, strict=True)
        ]
        image = self.prompt.image
        assert image is not None  # or `begin` would have refused
        found = []
        for factor, members in zip((self.fix.alpha, self.fix.summary), zip(*sets, strict=True), strict=True):
            columns = torch.zeros(image.shape)
            columns[image] = torch.cat(members).float() * factor
            found.append(prompt_places(self.prompt, columns))
        return found

    def _rated(self, tower: TowerAttention, layer: int) -> list[Tensor]:
        """The rating of every sample's image tokens."""
        assert self.prompt.image is not None  # or `begin` would have refused
        counts = self.prompt.image.sum(1).tolist()
        calls = tower.kept.get(layer, [])
        return list(token_ratings(self.prompt.model.hf, self.prompt.inputs, calls, sum(counts)).split(counts))


@dataclass(frozen=True)
class _Sensitivity:
    """How much each head attends to the image over the prompt's text behind it: layer -> sum [sample head]."""

    layers: tuple[int, ...]
    mass: dict[int, Tensor] = field(default_factory=dict, compare=False, repr=False)

    @property
    def where(self) -> Where:
        return Where(layers=self.layers)

    def read(self, x: AttentionInputs, ctx: Context) -> None:
        asked = ctx.in_region("after_image") & (ctx.positions < ctx.length.unsqueeze(1))
        if asked.any():
            on_image = group_mass(x, image_keys(ctx).to(x.query)[..., None])[..., 0]
            new = (on_image * asked[:, None].to(on_image)).sum(-1).float()
            self.mass[ctx.layer] = self.mass.get(ctx.layer, torch.zeros_like(new)) + new

    def weights(self, layer: int) -> Float[Tensor, "sample head"]:
        """The share of the layer's largest; the number of text tokens is the same for all heads."""
        mass = self.mass[layer]
        return mass / mass.amax(1, keepdim=True).clamp_min(torch.finfo(mass.dtype).tiny)


@dataclass(frozen=True)
class _Raise:
    sets: _Sets
    sensitivity: _Sensitivity
    where: Where
    site: Site = "scores"

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        local, summary = (at_keys(amount, ctx).to(act)[:, None, None] for amount in self.sets.amounts())
        if self.sets.fix.variant == "paper":
            local = local * self.sensitivity.weights(ctx.layer)[:, list(ctx.heads), None, None].to(act)
        return boosted(act, local + summary)


def token_sets(
    first: Float[Tensor, " token"],
    late: Float[Tensor, " token"],
    spatial: Float[Tensor, " token"] | None = None,
    *,
    share: float = 0.25,
    spatial_share: float = 0.05,
) -> tuple[Bool[Tensor, " token"], Bool[Tensor, " token"]]:
    """Local and summary tokens from their ratings in two layers, and in a third measure; NaN belongs to no set.

    As many summary tokens as there are upper outliers, which are these tokens themselves. Shares are rounded down.
    """
    summary = _outliers(late)
    local = _highest(first, share)
    if spatial is not None:
        local = local | _highest(spatial, spatial_share)
    return local & ~summary, summary


def _highest(ratings: Tensor, share: float) -> Tensor:
    rated = (~ratings.isnan()).nonzero().flatten()
    count = floor(share * len(rated) + 1e-9)
    chosen = torch.zeros(len(ratings), dtype=torch.bool)
    chosen[rated[ratings[rated].topk(count).indices]] = True
    return chosen


def _outliers(ratings: Tensor) -> Tensor:
    rated = ratings[~ratings.isnan()]
    if not len(rated):
        return torch.zeros(len(ratings), dtype=torch.bool)
    low, high = rated.quantile(torch.tensor([0.25, 0.75])).unbind()
    return ratings > high + 1.5 * (high - low)
