"""What one attention call computes with, in one form for every model and backend."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class AttentionInputs:
    """Queries, keys and values of one call, after rotary embedding and cache update, before key heads are repeated.

    `mask` is what the model passes: True or 0 where a key may be seen, False or a very negative number where not, None
    for no mask; then `causal` says whether key k is hidden from query i < k (aligned at the upper left, as in torch).
    `bias` is added to the scores (T5). `softcap` bounds them to +-softcap (Gemma 2). `sinks` holds one extra score per
    head that takes probability and gives no value (gpt-oss), so that rows sum to less than one.
    """

    query: Float[Tensor, "batch head query d_qk"]
    key: Float[Tensor, "batch kv_head key d_qk"]
    value: Float[Tensor, "batch kv_head key d_v"]
    scaling: float
    mask: Tensor | None = None
    causal: bool = False
    bias: Tensor | None = None
    softcap: float | None = None
    sinks: Float[Tensor, " head"] | None = None

    @property
    def n_heads(self) -> int:
        """Number of query heads."""
        return self.query.shape[1]

    @property
    def n_keys(self) -> int:
        """Number of keys, those in the cache included."""
        return self.key.shape[2]

    @property
    def group_size(self) -> int:
        """Query heads that share one key head (1 without grouped-query attention)."""
        return self.query.shape[1] // self.key.shape[1]

    @property
    def unmasked(self) -> bool:
        """Whether every query sees every key, as the newest query of an unpadded sample does."""
        return self.mask is None and not self.causal

    def visible(self, rows: Tensor | slice = slice(None)) -> Bool[Tensor, "batch heads query key"]:
        """Which keys the mask lets each query in `rows` see; the head axis has length 1 where heads agree."""
        batch, _, n_queries, _ = self.query.shape
        if self.unmasked:
            n_rows = len(range(n_queries)[rows]) if isinstance(rows, slice) else len(rows)
            return torch.ones((), dtype=torch.bool, device=self.query.device).expand(batch, 1, n_rows, self.n_keys)
        if self.mask is not None:
            mask = self.mask[..., rows, : self.n_keys]
            allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        else:
            every = torch.arange(max(n_queries, self.n_keys), device=self.query.device)
            # only the rows asked for: n x n is never made
            allowed = (every[: self.n_keys] <= every[:n_queries][rows][:, None])[None, None]
        return allowed.expand(batch, -1, -1, -1)
