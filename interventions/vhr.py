"""Vision-aware Head Reinforcement (He et al. 2024, arXiv 2412.13949, section 4.3): heads that see the image, turned up.

Once for every prompt, the z of its last position is compared with and without the image, layer by layer in one pass. In
a layer, heads whose output surges when the image goes are passed over: both their divergence and the squared norm of
their z without the image lie more than a standard deviation above the layer's mean. Then the heads whose divergence is
above the layer's median are multiplied by alpha, at every position of the prompt and in every decode step. A layer
chooses with the layers below it reinforced already, and with what stands before VHR in `model.hooks(...)` in force:
`VAR(), VHR()` chooses under redistributed attention, `VHR(), VAR()` under the model's own, and a `Record` before VHR sees
the pass that chooses too. The paper reinforces the second layer and the last 14 of 32. Rows of attention are left alone,
and nothing is switched off.

Left open by the paper, and settled here by name: whether the pass without the image is reinforced too (`text_branch`:
"scaled" by the same heads, or "plain"), and how the image is removed (`headscope.images.removal`). Standard deviations
are those of the layer's heads as a whole population.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from head_analysis.vision import divergence
from headscope.bridge_hooks import ForBridges
from headscope.errors import UsageError
from headscope.heads import Head, parse_heads
from headscope.hooks import Context, Site, Where
from headscope.images.removal import Removal, with_and_without
from headscope.model import HookedModel
from headscope.prompting import Prompt
from interventions.places import image_columns
from interventions.scale import Scale

TextBranch = Literal["scaled", "plain"]
Choice = Literal["divergence", "random"]
_SECOND = 1
_LAST_SHARE = 14 / 32


@dataclass(frozen=True)
class VHR(ForBridges):
    """Multiplies z of the heads that react to the image by `alpha`; heads are chosen for every sample from its prompt.

    With `heads` these are scaled instead and nothing is chosen. `layers` are those of the paper, scaled to the model's
    depth, unless given. `choice="random"` is the control: half of each layer's heads, drawn by `seed`. A sample without
    an image is left alone. Raises UsageError for models without image tokens. Costs one pass of the prompts with and
    without their image, then a multiplication. A `Record` that stands before it also sees that pass.
    """

    alpha: float = 2.0
    heads: tuple[Head, ...] | None = None
    layers: tuple[int, ...] | None = None
    outliers: Literal["removed", "kept"] = "removed"
    text_branch: TextBranch = "scaled"
    removal: Removal = "delete"
    choice: Choice = "divergence"
    seed: int = 0

    def __init__(
        self,
        alpha: float | int = 2.0,
        *,
        heads: "str | Iterable[Head | str | tuple[int, int]] | None" = None,
        layers: Iterable[int] | None = None,
        outliers: Literal["removed", "kept"] = "removed",
        text_branch: TextBranch = "scaled",
        removal: Removal = "delete",
        choice: Choice = "divergence",
        seed: int = 0,
    ) -> None:
        given = None if heads is None else parse_heads(heads)
        where = None if layers is None else tuple(layers)
        values = (float(alpha), given, where, outliers, text_branch, removal, choice, seed)
        for name, value in zip(self.__dataclass_fields__, values, strict=True):
            object.__setattr__(self, name, value)
        known = {
            "outliers": ("removed", "kept"),
            "text_branch": get_args(TextBranch),
            "removal": get_args(Removal),
            "choice": get_args(Choice),
        }
        for name, words in known.items():
            if getattr(self, name) not in words:
                raise UsageError(f"VHR's {name} is {getattr(self, name)!r}; use one of {', '.join(words)}")
        if not alpha >= 0:
            raise UsageError(
                f"VHR's alpha is {alpha}; give a factor of at least 0 (1 changes nothing, the paper uses 2)"
            )

    def prepared(self, model: HookedModel) -> "VHR":
        """With the layers of this model filled in."""
        model.require_images("VHR")
        if self.heads is not None:
            model.validate(Scale(self.heads, self.alpha))
            return self
        layers = default_layers(model.layers()) if self.layers is None else self.layers
        model.validate(_Choose(self, {}, torch.ones(1, dtype=torch.bool), layers))
        return replace(self, layers=layers)

    def begin(self, prompt: Prompt) -> Sequence[Any]:
        """Chooses heads for this prompt and scales them from here on."""
        if self.heads is not None:
            return [Scale(self.heads, self.alpha)]
        image = image_columns(prompt, "VHR")
        if not image.any():
            return []
        assert self.layers is not None  # filled in by `prepared`
        if self.choice == "random":
            return [_ScaleChosen(self.alpha, self._drawn(prompt.model, image.any(1)), self.layers)]
        chosen: dict[int, Tensor] = {}
        both = with_and_without(prompt.inputs, image, prompt.model.hf, removal=self.removal)
        choose = _Choose(self, chosen, image.any(1), self.layers)
        prompt.run({**both, "use_cache": False}, choose)
        return [_ScaleChosen(self.alpha, chosen, self.layers)]

    def _drawn(self, model: HookedModel, seeing: Tensor) -> dict[int, Tensor]:
        """As many heads of each layer as lie above a median, the same for every sample that has an image."""
        drawn = {}
        for site in model.sites_of():
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + site.layer)
            heads = torch.zeros(site.n_heads, dtype=torch.bool)
            heads[torch.randperm(site.n_heads, generator=generator)[: site.n_heads // 2]] = True
            drawn[site.layer] = (seeing[:, None] & heads).to(model.device)
        return drawn


@dataclass(frozen=True)
class _Choose:
    """Chooses heads in a batch of samples with, then without their image, and scales them at once."""

    vhr: VHR
    chosen: dict[int, Tensor] = field(compare=False)
    """Layer -> [sample head]."""
    seeing: Bool[Tensor, " sample"] = field(compare=False)
    """Which samples have an image; no head is chosen for the others."""
    layers: tuple[int, ...]
    site: Site = "z"

    @property
    def where(self) -> Where:
        return Where(layers=self.layers)

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        last = (ctx.positions == ctx.length.unsqueeze(1) - 1).int().argmax(1).to(act.device)
        z = act[torch.arange(len(act), device=act.device), last]
        z_with, z_without = z.chunk(2)
        surge = z_without.float().square().sum(-1)
        heads = reinforced_heads(divergence(z_with, z_without), surge, remove_outliers=self.vhr.outliers == "removed")
        heads = heads & self.seeing.to(heads.device)[:, None]
        self.chosen[ctx.layer] = heads
        bare = heads if self.vhr.text_branch == "scaled" else torch.zeros_like(heads)
        return _scaled(act, torch.cat([heads, bare]), self.vhr.alpha)


@dataclass(frozen=True)
class _ScaleChosen:
    """Scales each sample's own heads."""

    alpha: float
    chosen: dict[int, Tensor] = field(compare=False)
    layers: tuple[int, ...]
    site: Site = "z"

    @property
    def where(self) -> Where:
        return Where(layers=self.layers)

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        return _scaled(act, self.chosen[ctx.layer], self.alpha)


def _scaled(act: Tensor, heads: Tensor, alpha: float) -> Tensor:
    return torch.where(heads[:, None, :, None], act * alpha, act)


def default_layers(layers: Sequence[int]) -> tuple[int, ...]:
    """The second of these layers and the last 14 of 32 of them, rounded to the model's depth."""
    last = max(1, round(_LAST_SHARE * len(layers)))
    return tuple(sorted({*layers[_SECOND : _SECOND + 1], *layers[-last:]}))


def reinforced_heads(
    vhd: Float[Tensor, "*sample head"], surge: Float[Tensor, "*sample head"], *, remove_outliers: bool = True
) -> Bool[Tensor, "*sample head"]:
    """Which heads of one layer are reinforced: those above the layer's median divergence, outliers counted as 0.

    `surge` is the squared norm of each head's z without the image.
    """
    if remove_outliers:
        vhd = torch.where(_stands_out(vhd) & _stands_out(surge), 0.0, vhd)
    return vhd > vhd.quantile(0.5, dim=-1, keepdim=True)


def _stands_out(values: Tensor) -> Tensor:
    return values > values.mean(-1, keepdim=True) + values.std(-1, correction=0, keepdim=True)
