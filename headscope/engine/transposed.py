"""Column mass and entropy of every head from two calls of a stock fused kernel, without any pattern; O(n) memory.

The first call gives the head outputs and each row's log-sum-exp. The second one is transposed: keys ask and queries
answer, with one more dimension that subtracts the query's log-sum-exp from its score, and both sequences turned around so
that causality holds. Its own log-sum-exp is then the logarithm of the column mass, and with the queries as values it
returns P^T Q up to that mass, from which the entropy follows: the sum of lse over rows, less scaling times
sum_j k_j (P^T Q)_j.

Meant for GPUs, where a pattern in blocks is slow. So far it has run on CPUs only, where blocks are faster. The kernels
are torch's flash attention for CPUs and memory-efficient attention for CUDA, in float32; there is none in Triton.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from headscope.engine.inputs import AttentionInputs

_ALIGNED = 8  # head widths that the CUDA kernel takes


def suits(x: AttentionInputs) -> bool:
    """Whether a call can be read this way: without mask, bias, cap or sinks, and square if causal."""
    plain = x.mask is None and x.bias is None and x.softcap is None and x.sinks is None
    return plain and (not x.causal or x.query.shape[2] == x.n_keys)


def transposed_sums(
    x: AttentionInputs,
) -> tuple[Float[Tensor, "batch query head d_v"], Float[Tensor, "batch head key"], Float[Tensor, "batch head"]]:
    """Head outputs, column mass, and entropy summed over queries, of a call that `suits`."""
    wide = torch.promote_types(x.query.dtype, torch.float32)
    query = x.query.to(wide)
    key, value = (one.to(wide).repeat_interleave(x.group_size, 1) for one in (x.key, x.value))
    out, total = _kernel(query, key, value, causal=x.causal, scaling=x.scaling)
    asking = torch.cat([key, torch.ones_like(key[..., :1])], -1)
    answering = torch.cat([query, -total.unsqueeze(-1) / x.scaling], -1)
    turned = [one.flip(2) for one in (asking, answering, query)]
    mean, mass = _kernel(*turned, causal=x.causal, scaling=x.scaling)
    column = mass.flip(2).exp()
    products = (key * mean.flip(2)).sum(-1) * column
    return out.transpose(1, 2).to(x.query.dtype), column, total.sum(-1) - x.scaling * products.sum(-1)


def _kernel(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scaling: float) -> tuple[Tensor, Tensor]:
    """Outputs [batch head query d_v] and log-sum-exp [batch head query] of a fused call."""
    width = -(-max(query.shape[-1], value.shape[-1]) // _ALIGNED) * _ALIGNED
    given = [pad(one, (0, width - one.shape[-1])).contiguous() for one in (query, key, value)]
    if query.is_cuda:
        call = torch.ops.aten._scaled_dot_product_efficient_attention
        out, total, *_ = call(*given, None, True, 0.0, causal, scale=scaling)
    else:
        call = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, total = call(*given, 0.0, causal, scale=scaling)
    return out[..., : value.shape[-1]], total[..., : query.shape[2]]
