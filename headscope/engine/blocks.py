"""The pattern of a whole layer in blocks of rows, each block shared between the head outputs and whoever reads it.

Scores, softmax and values times pattern, one block after the other, give the outputs that a fused kernel gives, in O(n)
memory; in between, the block's pattern lies in the cache and can be summed up for little. A causal block holds only keys
up to its last row, a block under a mask only keys from the first to the last that any of its rows sees.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.engine.inputs import AttentionInputs

BLOCK_ELEMENTS = 2**19
"""Pattern entries in a block, for each thread: 2 MB in float32, and its scores as much again."""

_CUDA_BLOCK_ELEMENTS = 2**26
_LEAST_ROWS = 128  # products with fewer rows are slow, so where rows are very long a block is larger
_ALIGNED = (64, 16, 1)  # causal rows whose length is no multiple of a cache line (16) take up to half as long again


@dataclass(frozen=True)
class Block:
    """Some rows of some heads, over the keys they may see; the tensors hold until the next block is asked for.

    `lanes` are key heads, each with its group of query heads. `scores` are finite, also for hidden keys; they and
    `pattern` may be overwritten.
    """

    samples: slice
    lanes: slice
    rows: slice
    keys: slice
    scores: Float[Tensor, "batch kv_head row group key"]
    pattern: Float[Tensor, "batch kv_head row group key"]


def block_elements(x: AttentionInputs) -> int:
    """Most pattern entries that a block of this call holds."""
    size = _CUDA_BLOCK_ELEMENTS if x.query.is_cuda else BLOCK_ELEMENTS * torch.get_num_threads()
    least = min(x.query.shape[2], -(-_LEAST_ROWS // x.group_size)) * x.group_size * x.n_keys
    return max(size, least)


def empty_outputs(x: AttentionInputs) -> Float[Tensor, "batch query head d_v"]:
    """Room for the head outputs, in float32 or wider."""
    wide = torch.promote_types(x.query.dtype, torch.float32)
    return x.query.new_empty(x.query.shape[0], x.query.shape[2], x.n_heads, x.value.shape[-1], dtype=wide)


def pattern_blocks(x: AttentionInputs, out: Float[Tensor, "batch query head d_v"]) -> Iterator[Block]:
    """Every block of the pattern, rows in order; `out` (see `empty_outputs`) is filled once the last one was taken.

    Rows that see no key are zeros; with `sinks`, rows sum to less than one.
    """
    (batch, _, n_queries, _), n_lanes = x.query.shape, x.key.shape[1]
    size, everything = block_elements(x), batch * x.n_heads * n_queries * x.n_keys
    together = batch if everything <= size else 1
    scratch = x.query.new_empty(2, min(size, everything), dtype=out.dtype)
    query = x.query.to(out.dtype).unflatten(1, (n_lanes, -1)).transpose(2, 3)
    query = (query * x.scaling).contiguous()  # by row, then by head of a group: a block is one matrix per key head
    key, value = x.key.to(out.dtype).contiguous(), x.value.to(out.dtype).contiguous()
    outputs = out.unflatten(2, (n_lanes, -1)).transpose(1, 2)
    for samples in _steps(batch, together):
        mine, first = _of_samples(x, samples), 0
        while first < n_queries:
            rows = slice(first, min(first + _rows_at_once(mine, first, size), n_queries))
            keys, hidden = _hidden(mine, rows)
            shape = (rows.stop - first, x.group_size, keys.stop - keys.start)
            for lanes in _steps(n_lanes, max(1, size // (together * math.prod(shape)))):
                shaped = (together, lanes.stop - lanes.start, *shape)
                scores, pattern = (one[: math.prod(shaped)].view(shaped) for one in scratch)
                torch.bmm(
                    _matrices(query[samples, lanes, rows]),
                    _matrices(key[samples, lanes, keys]).mT,
                    out=_matrices(scores),
                )
                _adjust(scores, mine, lanes, rows, keys, hidden)
                torch.softmax(scores, -1, out=pattern)
                _weaken(scores, pattern, mine, lanes, hidden)
                product = torch.bmm(_matrices(pattern), _matrices(value[samples, lanes, keys]))
                outputs[samples, lanes, rows] = product.view(*shaped[:-1], -1)
                yield Block(samples, lanes, rows, keys, scores, pattern)
            first = rows.stop


def _steps(n: int, size: int) -> Iterator[slice]:
    for first in range(0, n, size):
        yield slice(first, min(first + size, n))


def _rows_at_once(x: AttentionInputs, first: int, size: int) -> int:
    """About as many rows from `first` on as a block may hold."""
    room = size // (x.query.shape[0] * x.group_size)
    reached = (math.isqrt(first**2 + 4 * room) - first) // 2 if x.causal else 0  # r rows see first + r keys
    rows = max(1, room // x.n_keys, reached)
    step = next(step for step in _ALIGNED if rows >= step)
    return rows // step * step


def _of_samples(x: AttentionInputs, samples: slice) -> AttentionInputs:
    def chosen(tensor: Tensor | None) -> Tensor | None:
        return tensor if tensor is None or tensor.shape[0] == 1 else tensor[samples]

    return replace(
        x,
        query=x.query[samples],
        key=x.key[samples],
        value=x.value[samples],
        mask=chosen(x.mask),
        bias=chosen(x.bias),
    )


def _hidden(x: AttentionInputs, rows: slice) -> tuple[slice, Tensor | None]:
    """The keys from the first to the last that a row may see, and which of them it may not.

    `hidden` is [batch head row key], its first two axes of length 1 where they agree; where it holds fewer keys than the
    slice, they are the last ones.
    """
    if x.mask is None:
        if not x.causal:
            return slice(0, x.n_keys), None
        keys = slice(0, min(rows.stop, x.n_keys))
        corner = torch.arange(min(rows.start, keys.stop), keys.stop, device=x.query.device)
        return keys, (corner > torch.arange(rows.start, rows.stop, device=x.query.device)[:, None])[None, None]
    visible = x.visible(rows)
    seen = visible.flatten(0, 2).any(0).nonzero().flatten()
    keys = slice(int(seen[0]), int(seen[-1]) + 1) if len(seen) else slice(0, 1)
    hidden = ~visible[..., keys]
    return keys, hidden if hidden.any() else None


def _adjust(scores: Tensor, x: AttentionInputs, lanes: slice, rows: slice, keys: slice, hidden: Tensor | None) -> None:
    """Cap, bias and mask, in place."""
    if x.softcap is not None:
        scores.div_(x.softcap).tanh_().mul_(x.softcap)
    if x.bias is not None:
        scores.add_(_by_lane(x.bias[..., rows, keys], x, lanes))
    if x.mask is not None and x.mask.dtype != torch.bool:  # a mask of numbers may also carry a bias
        added = x.mask[..., rows, keys]
        added = added if hidden is None else added.masked_fill(hidden, 0.0)
        if added.any():
            scores.add_(_by_lane(added, x, lanes))
    if hidden is not None and hidden.shape[-1]:
        # finite, so that a weight of zero times the score is zero
        scores[..., -hidden.shape[-1] :].masked_fill_(_by_lane(hidden, x, lanes), torch.finfo(scores.dtype).min)


def _weaken(scores: Tensor, pattern: Tensor, x: AttentionInputs, lanes: slice, hidden: Tensor | None) -> None:
    """Rows that give a part of their weight to a sink, or see nothing at all, in place."""
    if x.sinks is not None:
        total = scores.amax(-1) - pattern.amax(-1).log()
        sinks = x.sinks.to(total.dtype).view(-1, 1, x.group_size)[lanes]
        pattern.mul_(torch.sigmoid(total - sinks).unsqueeze(-1))
    if x.mask is not None and hidden is not None:
        nothing = hidden.all(-1, keepdim=True)
        if nothing.any():
            pattern.masked_fill_(_by_lane(nothing, x, lanes), 0.0)


def _by_lane(tensor: Tensor, x: AttentionInputs, lanes: slice) -> Tensor:
    """[batch head row key] as [batch kv_head row group key] of these key heads; axes of length 1 stay so."""
    if tensor.shape[1] == 1:
        return tensor.unsqueeze(3)
    return tensor.unflatten(1, (-1, x.group_size))[:, lanes].transpose(2, 3)


def _matrices(tensor: Tensor) -> Tensor:
    """One matrix per sample and key head."""
    return tensor.flatten(2, -2).flatten(0, 1)
