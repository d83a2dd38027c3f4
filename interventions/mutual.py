"""Modality-mutual attention (Wang et al. 2025, arXiv 2503.02597): the image may read the question that follows it.

In a causal model image tokens never see the text behind them. The paper unlocks exactly that part of the mask, image
queries on keys of the question, in fine-tuning and in the prefill of inference; answers stay causal. Without that
training this is a diagnostic only: it asks whether, and where, the image's states change with the question.

Queries: image tokens, which stand in the prompt, so prefill only. The question is all of the prompt's text behind the
sample's last image, the words around it that belong to the chat's form included. Rows still sum to one, over more keys.
Nothing is switched off. The model is not causal in the prompt any more: image states, and through them the logits from
the image on, depend on the whole question. In a model that reads its whole prompt in both directions nothing changes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headscope.bridge_hooks import ForBridges
from headscope.heads import Head, parse_heads
from headscope.hooks import Context, Site, Where
from headscope.model import HookedModel
from headscope.prompting import Prompt
from interventions.places import image_columns, image_keys


@dataclass(frozen=True)
class MutualMask(ForBridges):
    """Shows image queries the question behind the image as well; in all layers and heads unless some are named.

    A sample without an image, or without text behind it, is left alone. UsageError for models without image tokens.
    """

    layers: tuple[int, ...] | None = None
    heads: tuple[Head, ...] | None = None

    def __init__(
        self,
        *,
        layers: Iterable[int] | None = None,
        heads: "str | Iterable[Head | str | tuple[int, int]] | None" = None,
    ) -> None:
        object.__setattr__(self, "layers", None if layers is None else tuple(layers))
        object.__setattr__(self, "heads", None if heads is None else parse_heads(heads))

    def prepared(self, model: HookedModel) -> "MutualMask":
        """The operator itself, once the model is known to take images."""
        model.require_images("MutualMask")
        model.validate(_Show(self))
        return self

    def begin(self, prompt: Prompt) -> Sequence[Any]:
        """The edit of the mask."""
        return [_Show(self)] if image_columns(prompt, "MutualMask").any() else []


@dataclass(frozen=True)
class _Show:
    mutual: MutualMask
    site: Site = "mask"

    @property
    def where(self) -> Where:
        return Where(self.mutual.heads, self.mutual.layers, "prefill", region="image")

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        keys, places = image_keys(ctx), ctx.key_positions
        assert ctx.image_end is not None  # known together with the image's tokens
        end, length = ctx.image_end.unsqueeze(1), ctx.length.unsqueeze(1)
        question = ~keys & (end > 0) & (places >= end) & (places < length)
        return act | question[:, None, None].to(act.device) if question.any() else act
