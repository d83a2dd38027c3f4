"""Hides some keys from some queries: what can no longer flow between two groups of tokens, from a layer on.

The edit is one of the mask (Geva et al. 2023, arXiv 2304.14767, knock out edges this way), before the softmax, so rows
sum to one over the keys that are left. A query left with no key at all sees nothing: its row, and its heads' outputs,
are zeros. A query that is among the hidden keys itself does not see itself either. Prefill and decode, unless a phase
is named; "off" means that the keys are not there, for these queries alone.

`KnockOut(keys="image", from_layer=l)` with the queries behind the image is the question of Wu et al. 2024 (arXiv
2411.19628), from which layer on a model can do without its image. Hiding the question from the image, or the image from
the answer (`phase="decode"`), asks along which path information travels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from headscope.bridge_hooks import ForBridges
from headscope.errors import UsageError
from headscope.heads import Head, parse_heads
from headscope.hooks import Context, Phase, Region, Site, Where
from headscope.model import HookedModel
from headscope.prompting import Prompt
from interventions.places import image_keys

Keys = Literal["image", "text"]


@dataclass(frozen=True)
class KnockOut(ForBridges):
    """`queries` no longer see `keys`, in every layer from `from_layer` on.

    `keys` and `queries` are groups of tokens by name, or places in the prompt, negative ones counted from its end
    (`queries=None`: all). Generated tokens are "text" and "after_image", as queries and as keys. `layers` narrows the
    layers, `heads` the heads. Raises UsageError for names that are not known, and where one of them speaks of images,
    for models that take none. A sample without an image has no image keys, and nothing of it is hidden.
    """

    keys: Keys | tuple[int, ...] = "image"
    queries: Region | tuple[int, ...] | None = "after_image"
    from_layer: int = 0
    layers: tuple[int, ...] | None = None
    heads: tuple[Head, ...] | None = None
    phase: Phase | None = None

    def __init__(
        self,
        keys: Keys | Iterable[int] = "image",
        queries: Region | Iterable[int] | None = "after_image",
        *,
        from_layer: int = 0,
        layers: Iterable[int] | None = None,
        heads: "str | Iterable[Head | str | tuple[int, int]] | None" = None,
        phase: Phase | None = None,
    ) -> None:
        named = tuple(group if group is None or isinstance(group, str) else tuple(group) for group in (keys, queries))
        chosen = None if heads is None else parse_heads(heads)
        values = (*named, from_layer, None if layers is None else tuple(layers), chosen, phase)
        for name, value in zip(self.__dataclass_fields__, values, strict=True):
            object.__setattr__(self, name, value)
        if isinstance(self.keys, str) and self.keys not in get_args(Keys):
            raise UsageError(f"keys {self.keys!r} are not known; use one of {', '.join(get_args(Keys))}, or places")
        _ = self.where  # refuses a region or phase that is not known

    @property
    def where(self) -> Where:
        """Which queries, heads and layers; `from_layer` not counted."""
        by_name = isinstance(self.queries, str)
        region, positions = (self.queries, None) if by_name else (None, self.queries)
        return Where(self.heads, self.layers, self.phase, positions, region=region)  # type: ignore[arg-type]

    def prepared(self, model: HookedModel) -> "KnockOut":
        """With the layers of this model filled in."""
        if isinstance(self.keys, str):
            model.require_images(f"KnockOut of {self.keys!r} keys")
        model.validate(_Hide(self))
        named = model.layers() if self.layers is None else self.layers
        layers = tuple(layer for layer in named if layer >= self.from_layer)
        if not layers:
            raise UsageError(
                f"KnockOut from layer {self.from_layer} on leaves none of the layers {', '.join(map(str, named))} of "
                f"{model.name}; give a lower from_layer"
            )
        return replace(self, layers=layers)

    def begin(self, prompt: Prompt) -> Sequence[Any]:
        """The edit of the mask; it learns nothing of the prompt."""
        return [_Hide(self)]


@dataclass(frozen=True)
class _Hide:
    knockout: KnockOut
    site: Site = "mask"

    @property
    def where(self) -> Where:
        return self.knockout.where

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        hidden = _members(self.knockout.keys, ctx)
        return act & ~hidden[:, None, None].to(act.device) if hidden.any() else act


def _members(keys: Keys | tuple[int, ...], ctx: Context) -> Tensor:
    """Which keys are meant [sample key]."""
    if keys == "image":
        return image_keys(ctx)
    if keys == "text":
        return ~image_keys(ctx) & (ctx.key_positions >= 0)
    found = torch.zeros_like(ctx.key_positions, dtype=torch.bool)
    for key in keys:
        place = ctx.length.unsqueeze(1) + key if isinstance(key, int) and key < 0 else key
        found |= (ctx.key_positions == place) & (ctx.key_positions >= 0)
    return found
