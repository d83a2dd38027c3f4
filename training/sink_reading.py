"""Where heads rest, and what states and values look like there, in one pass over rows of tokens."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from head_analysis.sink_reading import value_norms
from headscope import HookedModel, Record

_SKIPPED = 16  # queries at the start, to which few keys are open


@dataclass(frozen=True)
class Reading:
    """Means over rows, and over all queries of a row but the first few.

    Ratios are to the median over all tokens that are neither first nor `<s>`.
    """

    first: Float[Tensor, "layer head"]
    """Attention on the first token."""
    later: Float[Tensor, "layer head"]
    """Attention on all `<s>` behind it together."""
    other: Float[Tensor, "layer head"]
    """Attention on the place, `<s>` left out, that gets most on average."""
    resid_first: Float[Tensor, " layer"]
    """Norm of the first token's state behind each layer, as a ratio."""
    resid_later: Float[Tensor, " layer"]
    """The same of later `<s>`; NaN where there are none."""
    value_first: Float[Tensor, "layer head"]
    """Norm of what the first token's value hands on, v W_O, as a ratio."""
    loss: float
    """Nats a token."""


@torch.no_grad()
def read(model: HookedModel, ids: Int[Tensor, "row token"]) -> Reading:
    """Reads rows of one length; memory for all their patterns."""
    pattern, resid, value = Record("pattern"), Record("resid_post"), Record("v")
    with model.hooks(pattern, resid, value):
        logits = model.hf(input_ids=ids, use_cache=False).logits
    begin = ids == model.tokenizer.bos_token_id
    begin[:, 0] = False
    plain = ~begin
    plain[:, 0] = False
    layers = model.layers()
    masses = [_masses(pattern.seen[layer][0], begin) for layer in layers]
    norms = [resid.seen[layer][0].norm(dim=-1) for layer in layers]
    values = [_values(model, value.seen[layer][0], layer) for layer in layers]
    first, behind, other = (torch.stack(one) for one in zip(*masses, strict=True))
    return Reading(
        first,
        behind,
        other,
        torch.stack([norm[:, 0].mean() / norm[plain].median() for norm in norms]),
        torch.stack([norm[begin].mean() / norm[plain].median() for norm in norms]),
        torch.stack([norm[:, :, 0].mean(0) / norm.transpose(0, 1)[:, plain].median(-1).values for norm in values]),
        nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:]).item(),
    )


def _masses(
    pattern: Float[Tensor, "row head query key"], later: Bool[Tensor, "row key"]
) -> tuple[Float[Tensor, " head"], Float[Tensor, " head"], Float[Tensor, " head"]]:
    """Mean attention on the first token, on later `<s>`, and on the place that gets most of what is left."""
    asked = pattern[:, :, _SKIPPED:]
    at_later = asked * later[:, None, None]
    means = (asked - at_later).mean((0, 2))
    return means[:, 0], at_later.sum(-1).mean((0, 2)), means[:, 1:].max(-1).values


def _values(
    model: HookedModel, value: Float[Tensor, "row key kv_head d_head"], layer: int
) -> Float[Tensor, "row head key"]:
    weights = model.output_weights(layer)
    return torch.stack([value_norms(one.transpose(0, 1), weights) for one in value])
