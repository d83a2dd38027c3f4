"""What every key has received so far, averaged over the queries that could see it; carried from pass to pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from headscope.engine.edit import BLOCK_ELEMENTS
from headscope.engine.inputs import AttentionInputs
from headscope.engine.rows import of_heads, pattern_rows
from headscope.errors import UsageError
from headscope.hooks import Context


@dataclass(frozen=True)
class ColumnMeans:
    """Sums over all queries of a prompt and its continuation, for some heads of one layer, by the key's place.

    Padding is in none of them. Attention is what the layer computes before other edits of its rows.
    """

    mass: Float[Tensor, "sample head place"]
    queries: Int[Tensor, "sample heads place"]
    """How many queries could see each key; head axis of length 1 where heads agree."""
    widest: Int[Tensor, " sample"]
    """Most keys that a query could see: all before it and itself, fewer in a sliding window."""
    end: Int[Tensor, " sample"]
    """Place after the latest query."""

    @classmethod
    def of(cls, x: AttentionInputs, ctx: Context, heads: Sequence[int], before: "ColumnMeans | None") -> "ColumnMeans":
        """The sums after one more call; O(n) memory beside one block of rows.

        UsageError if a query of the call has been counted before, as after a cache is cut back.
        """
        device = x.query.device
        real = (ctx.positions >= 0).to(device)
        first = ctx.positions.masked_fill(ctx.positions < 0, torch.iinfo(torch.long).max).amin(1)
        if before is not None and (first < before.end).any():
            raise UsageError(
                f"place {int(first.min())} of a sample is computed a second time, so its attention would be counted "
                "twice; run each prompt from its beginning, with a new cache"
            )
        call = _sums(x, real, torch.tensor(list(heads), device=device))
        mass, queries = (_by_place(found, ctx.key_positions.to(device)) for found in call[:2])
        widest, end = call[2], ctx.positions.amax(1) + 1
        if before is None:
            return cls(mass, queries, widest, end)
        size = max(mass.shape[-1], before.mass.shape[-1])
        return cls(
            _wide(mass, size) + _wide(before.mass, size),
            _wide(queries, size) + _wide(before.queries, size),
            widest.maximum(before.widest),
            end.maximum(before.end),
        )

    @property
    def mean(self) -> Float[Tensor, "sample head place"]:
        """Mean attention over the queries that could see a key; 0 where none could."""
        return self.mass / self.queries.clamp_min(1)

    def at_keys(self, known: Bool[Tensor, "sample head place"], ctx: Context) -> Bool[Tensor, "sample head key"]:
        """What is known of places, for the keys of a call; False for padding."""
        places = ctx.key_positions.to(known.device)[:, None].expand(-1, known.shape[1], -1)
        return known.gather(2, places.clamp_min(0)) & (places >= 0)


def _sums(x: AttentionInputs, real: Tensor, heads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mass and number of queries of each key, and the most keys a query sees, a block of rows at a time."""
    batch, n_keys = x.query.shape[0], x.n_keys
    columns = real.any(0).nonzero().flatten()
    mass = torch.zeros(batch, len(heads), n_keys, device=real.device)
    queries = torch.zeros(batch, 1, n_keys, dtype=torch.long, device=real.device)
    widest = torch.zeros(batch, dtype=torch.long, device=real.device)
    for rows in columns.split(max(1, BLOCK_ELEMENTS // (batch * len(heads) * n_keys))):
        mine = real[:, None, rows, None]
        visible = of_heads(x.visible(rows), heads) & mine
        mass = mass + (pattern_rows(x, heads, rows) * mine).sum(2)
        queries = queries + visible.sum(2)
        widest = widest.maximum(visible.sum(-1).flatten(1).amax(1))
    return mass, queries, widest


def _by_place(values: Tensor, places: Tensor) -> Tensor:
    """Values of keys moved to the places of their tokens; those of padding are dropped."""
    size = int(places.max()) + 1
    index = places[:, None].expand(-1, values.shape[1], -1)
    moved = values.new_zeros(*values.shape[:2], size)
    return moved.scatter_add(2, index.clamp_min(0), values * (index >= 0))


def _wide(values: Tensor, size: int) -> Tensor:
    return pad(values, (0, size - values.shape[-1]))
