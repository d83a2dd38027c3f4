"""More attention to the image when a token is chosen: PAI (Liu et al. 2024, arXiv 2407.21771), its attention half.

s + alpha |s| takes the place of the score s of every image key, before the softmax. A positive score grows, a negative
one moves towards zero: both raise the image's share, by different amounts, so this is no change of temperature and
depends on where a head's scores lie. Rows still sum to one (in gpt-oss, to one with its sink), since the softmax
follows; what the image gains all other keys lose. Nothing is switched off.

Queries: those that choose a token, the last of the prompt and every one after it, in prefill and decode. In one pass
over a prompt, without `generate`, that is its last token. A text that is only scored, in one pass, is therefore boosted
at its end and nowhere else. Layers: all from the third, as in the released code. PAI's other half, which contrasts the
logits with those of the text alone, is no edit of heads and is not here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from headscope.bridge_hooks import ForBridges
from headscope.errors import UsageError
from headscope.heads import Head, parse_heads
from headscope.hooks import Context, Site, Where
from headscope.model import HookedModel
from headscope.prompting import Prompt
from interventions.places import image_columns, image_keys

_FIRST_LAYER = 2


@dataclass(frozen=True)
class ImageBoost(ForBridges):
    """Raises the scores of image keys by `alpha` times their size, for the query that chooses a token.

    0.2 is what the commands of the released code use. `heads` and `layers` narrow it; by default all heads of all
    layers but the first two. A sample without an image is left alone. Raises UsageError for a negative alpha and for
    models without image tokens.
    """

    alpha: float = 0.2
    heads: tuple[Head, ...] | None = None
    layers: tuple[int, ...] | None = None

    def __init__(
        self,
        alpha: float | int = 0.2,
        *,
        heads: "str | Iterable[Head | str | tuple[int, int]] | None" = None,
        layers: Iterable[int] | None = None,
    ) -> None:
        given = None if heads is None else parse_heads(heads)
        values = (float(alpha), given, None if layers is None else tuple(layers))
        for name, value in zip(self.__dataclass_fields__, values, strict=True):
            object.__setattr__(self, name, value)
        if not alpha >= 0:
            raise UsageError(f"ImageBoost's alpha is {alpha}; give a number of at least 0 (0 changes nothing)")

    def prepared(self, model: HookedModel) -> "ImageBoost":
        """With the layers of this model filled in."""
        model.require_images("ImageBoost")
        ready = replace(self, layers=later_layers(model, "ImageBoost") if self.layers is None else self.layers)
        for where in choosing(ready.layers, ready.heads):
            model.validate(_Boost(where, ready.alpha))
        return ready

    def begin(self, prompt: Prompt) -> Sequence[Any]:
        """Edits of the scores, for the queries that choose a token."""
        if not image_columns(prompt, "ImageBoost").any():
            return []
        return [_Boost(where, self.alpha) for where in choosing(self.layers, self.heads)]


@dataclass(frozen=True)
class _Boost:
    where: Where
    alpha: float
    site: Site = "scores"

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        amount = image_keys(ctx).to(act) * self.alpha
        return boosted(act, amount[:, None, None])


def boosted(
    scores: Float[Tensor, "batch head query key"], amount: Float[Tensor, "#batch #head #query key"]
) -> Float[Tensor, "batch head query key"]:
    """Scores raised by `amount` times their size."""
    return scores + amount * scores.abs()


def choosing(layers: tuple[int, ...] | None, heads: tuple[Head, ...] | None = None) -> tuple[Where, Where]:
    """The queries that choose a token: in decode, and, where nothing is generated, the prompt's last."""
    in_one_pass = Where(heads=heads, layers=layers, phase="prefill", positions=(-1,))
    return Where(heads=heads, layers=layers, phase="decode"), in_one_pass


def later_layers(model: HookedModel, asked: str) -> tuple[int, ...]:
    """The model's layers but the first two; UsageError if it has no others."""
    layers = tuple(layer for layer in model.layers() if layer >= _FIRST_LAYER)
    if not layers:
        raise UsageError(
            f"{asked} leaves the first two layers alone, and {model.name} has no others; name some with layers="
        )
    return layers
