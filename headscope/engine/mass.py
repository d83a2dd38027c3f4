"""Attention mass on named groups of keys, for every head and query, without an n x n pattern.

Attention is linear in the values: with one value column per group, 1 where a key belongs to it, the fused kernel returns
the mass on each group. One call serves as many groups as a head has dimensions; memory stays O(n). On a CPU the mass can
instead be taken from the pass that makes the head outputs, which spares the call but makes them afresh.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from headscope.engine.blocks import Block, empty_outputs, pattern_blocks
from headscope.engine.inputs import AttentionInputs
from headscope.engine.rows import pattern_rows

_BLOCK_ELEMENTS = 2**24


def group_mass(x: AttentionInputs, groups: Float[Tensor, "batch key group"]) -> Float[Tensor, "batch head query group"]:
    """Sum of attention over the keys of each group, weighted by `groups` (0 or 1 for plain membership)."""
    if x.softcap is not None or x.sinks is not None or x.bias is not None:
        return _by_rows(x, groups)
    width = x.value.shape[-1]
    columns = groups.to(x.query.dtype).split(width, dim=-1)
    return torch.cat([_by_kernel(x, part, width) for part in columns], -1)


def outputs_and_mass(
    x: AttentionInputs, groups: Float[Tensor, "batch key group"]
) -> tuple[Float[Tensor, "batch query head d_v"] | None, Float[Tensor, "batch head query group"]]:
    """The mass on each group, and the head outputs where they came from the same pass (on a CPU), else None."""
    if x.query.device.type != "cpu":
        return None, group_mass(x, groups)
    out, members = empty_outputs(x), by_group(groups)
    mass = out.new_empty(x.query.shape[0], x.key.shape[1], x.query.shape[2], x.group_size, groups.shape[-1])
    for block in pattern_blocks(x, out):
        mass[block.samples, block.lanes, block.rows] = block_mass(block, members)
    return out.to(x.query.dtype), mass.transpose(2, 3).flatten(1, 2)


def by_group(groups: Float[Tensor, "batch key group"]) -> Float[Tensor, "batch group key"]:
    """Members as `block_mass` takes them: products with few columns are slow unless each column lies in one piece."""
    return groups.mT.contiguous()


def block_mass(
    block: Block, members: Float[Tensor, "samples member all_keys"]
) -> Float[Tensor, "batch kv_head row group member"]:
    """Mass of a block's rows on each group of keys."""
    mine = members[block.samples, None, :, block.keys].to(block.pattern.dtype)
    return (block.pattern.flatten(2, 3) @ mine.mT).unflatten(2, block.pattern.shape[2:4])


def _by_kernel(x: AttentionInputs, groups: Tensor, width: int) -> Tensor:
    # Padding the group columns to the head width keeps the call on the fused kernel, which wants equal widths.
    value = pad(groups, (0, width - groups.shape[-1])).unsqueeze(1).expand(-1, x.n_heads, -1, -1)
    key = x.key.repeat_interleave(x.group_size, 1) if x.group_size > 1 else x.key
    causal = x.causal and x.mask is None
    mask = None if x.mask is None else x.mask[..., : x.n_keys]
    mass = scaled_dot_product_attention(x.query, key, value, attn_mask=mask, is_causal=causal, scale=x.scaling)
    if mask is not None and mask.dtype != torch.bool:  # the kernel spreads a query that sees nothing over all keys
        mass = mass * (mask.amax(-1, keepdim=True) > torch.finfo(mask.dtype).min / 2)
    return mass[..., : groups.shape[-1]].nan_to_num(0.0)


def _by_rows(x: AttentionInputs, groups: Tensor) -> Tensor:
    rows_at_once = max(1, _BLOCK_ELEMENTS // (x.query.shape[0] * x.n_heads * x.n_keys))
    every = torch.arange(x.query.shape[2], device=x.query.device)
    wide = groups.to(torch.promote_types(x.query.dtype, torch.float32)).unsqueeze(1)
    return torch.cat([pattern_rows(x, None, rows) @ wide for rows in every.split(rows_at_once)], 2)
