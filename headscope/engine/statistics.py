"""Exact statistics of every row of every head, summed up while the pattern passes by in blocks; O(n) memory.

From the largest entry of a row follows its log-sum-exp, lse = s_max - log p_max, and from that its entropy,
lse - sum p s; attention on the first token and the mean distance between query and keys follow from the column mass.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headscope.engine.blocks import Block, empty_outputs, pattern_blocks
from headscope.engine.inputs import AttentionInputs
from headscope.engine.mass import block_mass, by_group
from headscope.engine.transposed import transposed_sums

_CHUNK = 64


@dataclass(frozen=True)
class LayerStatistics:
    """Statistics of one attention call. In sums each query counts by its weight; what was not asked for is None."""

    column_mass: Float[Tensor, "batch head key"]
    """Attention that each key gets, summed over queries."""
    row_mass: Float[Tensor, "batch head query"]
    """Sum of each row: 1, less where a sink takes a part, 0 where a query sees no key."""
    entropy_sum: Float[Tensor, "batch head"]
    entropy: Float[Tensor, "batch head query"] | None = None
    """- sum p log p of each row, in nats; of a row that sums to less than one, over its keys alone."""
    top_key: Int[Tensor, "batch head query"] | None = None
    """Key with the largest weight, the first one of several; -1 where a query sees no key."""
    distance_mass: Float[Tensor, "batch head distance"] | None = None
    """Attention on the key so many places before the query, summed over queries; what falls on later keys is left out."""
    group_mass: Float[Tensor, "batch head query group"] | None = None
    """Attention of each row on each group of keys."""
    duplicate_mass: Float[Tensor, "batch head"] | None = None
    """Attention on earlier keys that hold the query's token, summed over queries."""
    induction_mass: Float[Tensor, "batch head"] | None = None
    """Attention on keys that follow an earlier occurrence of the query's token, summed over queries."""


def layer_statistics(
    x: AttentionInputs,
    *,
    weights: Float[Tensor, "batch query"] | None = None,
    distances: bool = False,
    groups: Float[Tensor, "batch key group"] | None = None,
    tokens: Int[Tensor, "batch key"] | None = None,
) -> tuple[Float[Tensor, "batch query head d_v"], LayerStatistics]:
    """Head outputs, in the dtype of the queries, and statistics of one attention call from one pass over its pattern.

    `weights` says how much each query counts in sums over queries (1). `tokens` are ids, negative where a token matches
    no other. Distances and tokens need queries and keys of one sequence.
    """
    out = empty_outputs(x)
    batch, n_queries = out.shape[:2]
    weights = out.new_ones(batch, n_queries) if weights is None else weights.to(out.dtype)
    lanes = (batch, x.key.shape[1])
    column = out.new_zeros(*lanes, x.group_size, x.n_keys)
    row = out.new_ones(*lanes, n_queries, x.group_size)
    entropy = torch.empty_like(row)
    top = torch.empty_like(row, dtype=torch.long)
    distance = torch.zeros_like(column) if distances else None
    members = None if groups is None else by_group(groups)
    mass = None if members is None else out.new_empty(*row.shape, members.shape[1])
    related = None if tokens is None else out.new_zeros(2, *lanes, x.group_size)
    relation = None if tokens is None else _Relations(tokens, weights)
    partial = x.sinks is not None or x.mask is not None
    for block in pattern_blocks(x, out):
        at = (block.samples, block.lanes)
        counted = weights[block.samples, block.rows]
        column[at][..., block.keys] += _over_rows(block.pattern, counted)
        if distance is not None:
            _add_distances(distance[at], block, counted)
        if mass is not None and members is not None:
            mass[at][:, :, block.rows] = block_mass(block, members)
        if partial:
            row[at][:, :, block.rows] = block.pattern.sum(-1)
        entropy[at][:, :, block.rows], top[at][:, :, block.rows] = _entropy_and_top(block, row[at][:, :, block.rows])
        if related is not None and relation is not None:
            for kind, matches in enumerate(relation.of(block)):
                torch.mul(block.pattern, matches, out=block.scores)
                related[kind][at] += block.scores.sum((2, 4))
    found = LayerStatistics(
        column_mass=column.flatten(1, 2),
        row_mass=row.transpose(2, 3).flatten(1, 2),
        entropy_sum=(entropy * weights[:, None, :, None]).sum(2).flatten(1, 2),
        entropy=entropy.transpose(2, 3).flatten(1, 2),
        top_key=top.transpose(2, 3).flatten(1, 2),
        distance_mass=None if distance is None else distance.flatten(1, 2),
        group_mass=None if mass is None else mass.transpose(2, 3).flatten(1, 2),
        duplicate_mass=None if related is None else related[0].flatten(1, 2),
        induction_mass=None if related is None else related[1].flatten(1, 2),
    )
    return out.to(x.query.dtype), found


def layer_sums(x: AttentionInputs) -> tuple[Float[Tensor, "batch query head d_v"], LayerStatistics]:
    """Head outputs and sums over all queries alone, from two calls of a fused kernel; for calls that it `suits`."""
    out, column, entropy = transposed_sums(x)
    rows = column.new_ones(*x.query.shape[:3])
    return out, LayerStatistics(column_mass=column, row_mass=rows, entropy_sum=entropy)


def _entropy_and_top(
    block: Block, row_mass: Float[Tensor, "batch kv_head row group"]
) -> tuple[Float[Tensor, "batch kv_head row group"], Int[Tensor, "batch kv_head row group"]]:
    """Of each row; overwrites the block's scores."""
    largest, place = _largest(block.scores)
    weight = block.pattern.gather(-1, place.unsqueeze(-1)).squeeze(-1)
    product = block.scores.mul_(block.pattern).sum(-1)
    entropy = (largest - weight.log()) * row_mass - product
    nothing = weight == 0
    return entropy.masked_fill(nothing, 0.0), (place + block.keys.start).masked_fill(nothing, -1)


def _over_rows(
    pattern: Float[Tensor, "batch kv_head row group key"], weights: Float[Tensor, "batch row"]
) -> Float[Tensor, "batch kv_head group key"]:
    """Weighted sum over rows, as one product."""
    rows = pattern.flatten(3)  # [batch kv_head row group*key]
    return (weights[:, None, None] @ rows).squeeze(2).unflatten(-1, pattern.shape[3:])


def _largest(scores: Float[Tensor, "*rest key"]) -> tuple[Float[Tensor, "*rest"], Int[Tensor, "*rest"]]:
    """Largest score of each row and the first key that has it.

    Finding a place costs ten times as much as finding a maximum, so it is looked for in the best of many chunks only.
    """
    n_keys = scores.shape[-1]
    whole = n_keys // _CHUNK * _CHUNK
    best = scores[..., :whole].unflatten(-1, (-1, _CHUNK)).amax(-1)
    if whole < n_keys:
        best = torch.cat([best, scores[..., whole:].amax(-1, keepdim=True)], -1)
    largest, chunk = best.max(-1, keepdim=True)
    # A short last chunk is looked through together with the end of the one before, which is smaller throughout.
    first = (chunk * _CHUNK).clamp_max(max(0, n_keys - _CHUNK))
    columns = first + torch.arange(min(_CHUNK, n_keys), device=scores.device)
    place = scores.gather(-1, columns).argmax(-1, keepdim=True)
    return largest.squeeze(-1), (first + place).squeeze(-1)


def _add_distances(total: Float[Tensor, "batch kv_head group distance"], block: Block, weights: Tensor) -> None:
    """Adds the block's sums along diagonals: a copy with room before each row, read with one more column a row."""
    batch, lanes, n_rows, group, n_keys = block.pattern.shape
    width = n_rows - 1 + n_keys
    room = block.pattern.new_zeros(batch * lanes * n_rows * group * width + n_rows)
    copy = room[: len(room) - n_rows].view(batch, lanes, n_rows, group, width)
    torch.mul(block.pattern, weights[:, None, :, None, None], out=copy[..., n_rows - 1 :])
    strides = (lanes * n_rows * group * width, n_rows * group * width, width, group * width + 1, 1)
    diagonals = room.as_strided((batch, lanes, group, n_rows, width), strides).sum(3)
    nearest = block.rows.start - block.keys.start + n_rows - 1  # the diagonal of distance 0
    behind = diagonals[..., : max(0, nearest + 1)].flip(-1)
    first = max(0, nearest + 1 - width)
    total[..., first : first + behind.shape[-1]] += behind


class _Relations:
    """Which keys of a block hold the query's token earlier, and which follow such a key; times the query's weight."""

    def __init__(self, tokens: Tensor, weights: Tensor) -> None:
        self._tokens, self._weights = tokens, weights
        self._before = torch.nn.functional.pad(tokens[:, :-1], (1, 0), value=-1)
        self._latest: tuple[tuple[slice, slice], list[Tensor]] | None = None

    def of(self, block: Block) -> list[Float[Tensor, "batch 1 row 1 key"]]:
        """Both, worked out once for all heads of the same rows."""
        place = (block.samples, block.rows)
        if self._latest is None or self._latest[0] != place:
            self._latest = (place, [self._matches(tokens, block) for tokens in (self._tokens, self._before)])
        return self._latest[1]

    def _matches(self, keys: Tensor, block: Block) -> Tensor:
        queries = self._tokens[block.samples, block.rows, None]
        matches = (queries == keys[block.samples, None, block.keys]) & (queries >= 0)
        if keys is self._tokens:
            places = torch.arange(self._tokens.shape[1], device=keys.device)
            matches = matches & (places[block.keys] < places[block.rows, None])
        return (matches * self._weights[block.samples, block.rows, None])[:, None, :, None]
