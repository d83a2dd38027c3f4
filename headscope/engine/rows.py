"""Exact attention rows of chosen heads and queries, and the head outputs they give.

The model's own kernel never materialises the n x n pattern, and neither does this: cost and memory grow with the number
of rows asked for, times the number of keys.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headscope.engine.inputs import AttentionInputs


def pattern_rows(
    x: AttentionInputs, heads: Int[Tensor, " head"] | None = None, rows: Int[Tensor, " row"] | slice = slice(None)
) -> Float[Tensor, "batch head row key"]:
    """Softmax attention of the given heads and queries (all of them by default), in float32 or wider.

    A row in which every key is masked is all zeros. With `sinks`, rows sum to less than one.
    """
    visible = None if x.unmasked else of_heads(x.visible(rows), heads)
    return softmax_rows(x, score_rows(x, heads, rows), visible, heads)


def score_rows(
    x: AttentionInputs, heads: Int[Tensor, " head"] | None = None, rows: Int[Tensor, " row"] | slice = slice(None)
) -> Float[Tensor, "batch head row key"]:
    """What the softmax is taken of, in float32 or wider: scaled, capped, with biases; finite for hidden keys too."""
    wide = torch.promote_types(x.query.dtype, torch.float32)
    query = x.query[:, :, rows].to(wide)
    key = x.key.to(wide)
    if heads is not None:
        scores = query[:, heads] @ key[:, heads // x.group_size].transpose(2, 3)
    else:  # heads of one group share their key matrix, so they are stacked as rows instead of repeating the keys
        batch, n_heads, n_rows, width = query.shape
        scores = query.reshape(batch, key.shape[1], -1, width) @ key.transpose(2, 3)
        scores = scores.reshape(batch, n_heads, n_rows, -1)
    scores = scores * x.scaling
    if x.softcap is not None:
        scores = x.softcap * torch.tanh(scores / x.softcap)
    if x.bias is not None:
        scores = scores + of_heads(x.bias[..., rows, : x.n_keys], heads)
    if x.mask is not None and x.mask.dtype != torch.bool:  # a mask of numbers may also carry a bias
        added = x.mask[..., rows, : x.n_keys].masked_fill(~x.visible(rows), 0.0)
        scores = scores + of_heads(added, heads)
    return scores


def softmax_rows(
    x: AttentionInputs,
    scores: Float[Tensor, "batch head row key"],
    visible: Bool[Tensor, "#batch #head row key"] | None,
    heads: Int[Tensor, " head"] | None = None,
) -> Float[Tensor, "batch head row key"]:
    """Attention that scores give over the visible keys (None: all); zeros where no key is visible."""
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    if x.sinks is not None:
        sinks = of_heads(x.sinks.view(1, -1, 1, 1), heads).to(scores.dtype)
        scores = torch.cat([scores, sinks.expand(scores.shape[0], -1, scores.shape[2], 1)], -1)
    pattern = scores.softmax(-1)
    if visible is not None and not visible.any(-1).all():
        pattern = pattern.nan_to_num(0.0)  # fully masked rows, as left padding makes them
    return pattern[..., : x.n_keys]


def head_outputs(
    pattern: Float[Tensor, "batch head row key"], x: AttentionInputs, heads: Int[Tensor, " head"] | None = None
) -> Float[Tensor, "batch row head d_v"]:
    """The outputs that these attention rows give: each row's weights times the values."""
    value = x.value.to(pattern.dtype)
    if heads is not None:
        return (pattern @ value[:, heads // x.group_size]).transpose(1, 2)
    batch, n_heads, n_rows, n_keys = pattern.shape
    out = pattern.reshape(batch, value.shape[1], -1, n_keys) @ value
    return out.reshape(batch, n_heads, n_rows, -1).transpose(1, 2)


def of_heads(tensor: Tensor, heads: Tensor | None) -> Tensor:
    """The given heads of a tensor whose head axis may have length 1 for all."""
    return tensor if heads is None or tensor.shape[1] == 1 else tensor[:, heads]
