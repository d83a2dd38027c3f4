"""Visual Attention Redistribution (Kang et al. 2025, arXiv 2503.03321): attention is moved from sinks to the image.

A sink is a token whose residual state, at the input of a layer, is large in the model's sink dimensions
(`head_analysis.sinks`). A head is image-centric at a query if it gives the image at least `min_image` of its attention,
and not too much of that to sinks; there, a share of what all sinks receive (text ones included) goes to the image
tokens that are no sinks, in proportion to what they have. Rows still sum to one, and text tokens that are no sinks keep
theirs.

Queries: text behind the image, in prefill and decode. Sinks are looked for in the prompt only, so no generated token is
one. Layers 0 and 1 are left alone, and so is a layer in which no image token is a sink.

The released code differs from the paper, and both can be had by name. The paper's rho is the least share of the image
attention that must not be on sinks, its p the share of a sink's attention that is taken away, and the last layer is
left alone. In the code rho is the largest share that may be on sinks, p the share that a sink keeps, and the last layer
is edited too, since the switch for it is set on the wrong class. Here both numbers are named for what they mean. The
code also keeps the first sample's sinks for all later samples, and from the second sample on edits the image's own
queries; that is an accident of its state and is not offered.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from head_analysis.sinks import relative_threshold, sink_dimensions, sink_tokens
from headscope.bridge_hooks import ForBridges
from headscope.errors import UsageError
from headscope.hooks import Context, Site, Where
from headscope.model import HookedModel
from headscope.prompting import Prompt
from interventions.places import at_keys, image_keys

Variant = Literal["paper", "released"]
_FIRST_LAYER = 2


@dataclass(frozen=True)
class VAR(ForBridges):
    """Moves attention from sinks to the image.

    `rho_nonsink`: least share of a query's image attention that lies on image tokens which are no sinks. `p_moved`:
    share of a sink's attention that is moved; by default 0.6 for the paper and 0.4 for the released code, whose p = 0.6
    is the share kept. `dims` are the model's sink dimensions, found for it if not given; `tau` the threshold on them,
    by default the paper's 20 at d_model = 4096 and in proportion to sqrt(d_model) elsewhere. `donors="random"` is the
    control: as many other tokens of the image, and of the text, give up attention in the sinks' place.

    Raises UsageError for shares outside 0..1 and for models without image tokens. Costs the rows of all heads behind
    the image in every layer but the first two.
    """

    variant: Variant = "paper"
    rho_nonsink: float | int = 0.5
    p_moved: float | int | None = None
    min_image: float | int = 0.2
    tau: float | int | None = None
    dims: tuple[int, ...] | None = None
    layers: tuple[int, ...] | None = None
    donors: Literal["sinks", "random"] = "sinks"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.variant not in ("paper", "released"):
            raise UsageError(f"variant {self.variant!r} of VAR is not known; use 'paper' or 'released'")
        if self.donors not in ("sinks", "random"):
            raise UsageError(f"VAR's donors are {self.donors!r}; use 'sinks', or 'random' for the control")
        shares = {"rho_nonsink": self.rho_nonsink, "p_moved": self.moved, "min_image": self.min_image}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise UsageError(f"VAR's {name} is {value}, but it is a share of attention; give a number from 0 to 1")

    @property
    def moved(self) -> float:
        """Share of a sink's attention that is moved."""
        if self.p_moved is not None:
            return float(self.p_moved)
        return 0.6 if self.variant == "paper" else 0.4

    def prepared(self, model: HookedModel) -> "VAR":
        """With the sink dimensions, threshold and layers of this model filled in."""
        model.require_images("VAR")
        numbers = model.layers()
        last = numbers[-1] + (self.variant == "released")
        layers = (
            tuple(layer for layer in numbers if _FIRST_LAYER <= layer < last) if self.layers is None else self.layers
        )
        if not layers:
            raise UsageError(
                f"VAR leaves the first two layers and the last alone, and {model.name} has no others; name some with "
                "layers="
            )
        tau = relative_threshold(model.d_model) if self.tau is None else self.tau
        dims = sink_dimensions(model, tau=tau).dims if self.dims is None else self.dims
        ready = replace(self, layers=layers, dims=dims, tau=tau)
        model.validate(_Redistribute(ready, {}))
        return ready

    def begin(self, prompt: Prompt) -> Sequence[Any]:
        """Looks for sinks while the prompt is read, and edits rows with what it has found."""
        sinks: dict[int, Tensor] = {}
        return [_FindSinks(self, sinks), _Redistribute(self, sinks)]


@dataclass(frozen=True)
class _FindSinks:
    """Notes which tokens of the prompt are sinks, layer by layer: [sample place]."""

    var: VAR
    sinks: dict[int, Tensor] = field(compare=False)
    site: Site = "resid_pre"

    @property
    def where(self) -> Where:
        return Where(layers=self.var.layers)

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        asked = (ctx.positions >= 0) & (ctx.positions < ctx.length.unsqueeze(1))
        if asked.any():
            found = sink_tokens(act, self.var.dims or (), self.var.tau).cpu() & asked
            if self.var.donors == "random" and ctx.image is not None:
                found = _as_many_others(found, asked, ctx.image, self.var.seed * 1_000_003 + ctx.layer)
            before = self.sinks.get(ctx.layer, torch.zeros(len(found), int(ctx.length.max()), dtype=torch.bool))
            sample, column = found.nonzero(as_tuple=True)
            after = before.clone()
            after[sample, ctx.positions[sample, column]] = True
            self.sinks[ctx.layer] = after
        return act


@dataclass(frozen=True)
class _Redistribute:
    var: VAR
    sinks: dict[int, Tensor] = field(compare=False)
    site: Site = "pattern"

    @property
    def where(self) -> Where:
        return Where(layers=self.var.layers, region="after_image")

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        image, sink = image_keys(ctx), at_keys(self.sinks[ctx.layer], ctx)
        if not (sink & image).any():
            return act
        # a sample without a visual sink is left as it is
        sink = (sink & (sink & image).any(1, keepdim=True)).to(act.device)
        moved, edited = _move(act, sink, image.to(act.device), self.var)
        return torch.where(edited, moved, act) if edited.any() else act


def _as_many_others(sink: Tensor, asked: Tensor, image: Tensor, seed: int) -> Tensor:
    """For every sample as many image tokens, and as many text tokens, as are sinks, drawn from those that are none."""
    drawn = torch.zeros_like(sink)
    for sample in range(len(sink)):
        generator = torch.Generator().manual_seed(seed)  # the same draw whatever the sample is batched with
        for kind in (image[sample], ~image[sample]):
            free = (asked[sample] & kind & ~sink[sample]).nonzero().flatten()
            count = int((sink[sample] & kind).sum())
            drawn[sample, free[torch.randperm(len(free), generator=generator)[:count]]] = True
    return drawn


def _move(act: Tensor, sink: Tensor, image: Tensor, var: VAR) -> tuple[Tensor, Tensor]:
    limits = {"keep": 1 - var.moved, "min_image": float(var.min_image), "max_sink_share": 1.0 - var.rho_nonsink}
    return redistributed(act, sink[:, None], image[:, None], **limits)


def redistribute(
    pattern: Float[Tensor, "head query key"],
    sink: Bool[Tensor, " key"],
    image: slice,
    *,
    keep: float = 0.6,
    min_image: float = 0.2,
    max_sink_share: float = 0.5,
) -> Float[Tensor, "head query key"]:
    """The pattern of a whole prompt after redistribution, with the released code's meaning of its numbers.

    `keep` is the share of its attention that a sink keeps, `max_sink_share` the largest share of the image attention
    that may lie on sinks. Rows up to the end of the image are unchanged, and all are if no image token is a sink.
    """
    in_image = torch.zeros_like(sink)
    in_image[image] = True
    if not (sink & in_image).any():
        return pattern
    limits = {"keep": keep, "min_image": min_image, "max_sink_share": max_sink_share}
    after = pattern[:, image.stop :]
    moved, edited = redistributed(after, sink, in_image, **limits)
    return torch.cat([pattern[:, : image.stop], torch.where(edited, moved, after)], 1)


def redistributed(
    rows: Float[Tensor, "*batch query key"],
    sink: Bool[Tensor, "*#batch key"],
    image: Bool[Tensor, "*#batch key"],
    *,
    keep: float,
    min_image: float,
    max_sink_share: float,
) -> tuple[Float[Tensor, "*batch query key"], Bool[Tensor, "*batch query 1"]]:
    """Every row after redistribution, and which rows meet the conditions for it (the paper's image-centric heads)."""
    sink, image = sink.unsqueeze(-2), image.unsqueeze(-2)
    seen = (rows * image).sum(-1, keepdim=True)
    useful = (rows * (image & ~sink)).sum(-1, keepdim=True)
    on_sinks = (rows * (image & sink)).sum(-1, keepdim=True)
    edited = (seen >= min_image) & (on_sinks <= max_sink_share * seen) & (useful > 0)
    freed = (1 - keep) * (rows * sink).sum(-1, keepdim=True)
    received = freed * rows / useful.clamp_min(torch.finfo(rows.dtype).tiny)
    moved = torch.where(sink, keep * rows, torch.where(image, rows + received, rows))
    return moved, edited
