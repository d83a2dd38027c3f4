"""Where each head looks most in the rows that choose an answer's tokens, read while the answer is generated.

Two readers give the same places. `TopKeys` works a row out as soon as its query comes by, so it sees rows as other
interventions leave them. `LateTopKeys` only keeps the queries and works all rows out at the end, against the keys that
the cache has gathered by then: one product a layer instead of one a step and layer, and no waiting for a device.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from headscope.engine.edit import BLOCK_ELEMENTS
from headscope.engine.inputs import AttentionInputs
from headscope.engine.rows import pattern_rows, score_rows, softmax_rows
from headscope.hooks import Context, Site, Where
from headscope.model import HookedModel


def best_keys(rows: Float[Tensor, "*rest key"], k: int) -> Int[Tensor, "*rest {k}"]:
    """Columns of the k largest weights, best first; -1 where fewer keys have any weight.

    Of equal weights the earliest comes first, so that a head which looks at all keys alike always names the first one:
    which of them `topk` names depends on how many columns of padding there are.
    """
    if k == 1:
        values, places = rows.max(-1, keepdim=True)
    else:
        values, places = (best[..., :k] for best in rows.sort(stable=True, dim=-1, descending=True))
    return pad(places.masked_fill(values <= 0, -1), (0, k - places.shape[-1]), value=-1)


def top_keys_reader(model: HookedModel, k: int) -> "TopKeys | LateTopKeys":
    """The cheap reader, unless interventions are in force that may change rows, or the keys it keeps would travel."""
    return TopKeys(k) if model.in_force or model.doors.remote else LateTopKeys(k)


@dataclass(frozen=True)
class TopKeys:
    """Keeps where each head looks most in every decode row, as places in the sample."""

    k: int
    seen: dict[int, list[Tensor]] = field(default_factory=dict, compare=False, repr=False)

    site: ClassVar[Site] = "pattern"
    where: ClassVar[Where] = Where(phase="decode")

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        """Notes the places; the rows stay as they are."""
        self.seen.setdefault(ctx.layer, []).append(_places(best_keys(act, self.k).cpu(), ctx))
        return act

    def of_sample(self, layer: int, index: int, steps: int) -> Int[Tensor, "step head k"]:
        """Places of one sample's answer steps."""
        return _of_sample(self.seen[layer], index, steps)


class _Row(NamedTuple):
    """A query whose row is still to be worked out, and what it saw."""

    query: Float[Tensor, "batch head row d_qk"]
    visible: Bool[Tensor, "batch _ row key"] | None
    n_keys: int


@dataclass(frozen=True)
class LateTopKeys:
    """What `TopKeys` keeps, worked out after the generation; rows that other interventions edit are not seen so."""

    k: int
    seen: dict[int, list[Tensor]] = field(default_factory=dict, compare=False, repr=False)
    _waiting: dict[int, list[_Row]] = field(default_factory=dict, compare=False, repr=False)
    _latest: dict[int, tuple[AttentionInputs, Context]] = field(default_factory=dict, compare=False, repr=False)
    _keys: dict[int, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)
    _columns: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False, repr=False)

    where: ClassVar[Where] = Where(phase="decode")

    def read(self, x: AttentionInputs, ctx: Context) -> None:
        """Keeps the queries that choose a token, and hold of the keys."""
        columns = self._asked(ctx)
        if not len(columns):
            return
        before, self._keys[ctx.layer] = self._keys.get(ctx.layer), (x.n_keys, x.key.data_ptr())
        if not _simple(x) or before is None or not _appended(before, x):
            self._work_out(ctx.layer)
            rows = pattern_rows(x, rows=columns.to(x.query.device))
            self.seen.setdefault(ctx.layer, []).append(_places(best_keys(rows, self.k).cpu(), ctx))
            return
        every = len(columns) == x.query.shape[2]
        query = x.query if every else x.query[:, :, columns.to(x.query.device)]
        visible = None if x.unmasked else x.visible(columns.to(x.query.device))
        self._waiting.setdefault(ctx.layer, []).append(_Row(query, visible, x.n_keys))
        self._latest[ctx.layer] = (x, ctx)

    def of_sample(self, layer: int, index: int, steps: int) -> Int[Tensor, "step head k"]:
        """Places of one sample's answer steps."""
        self._work_out(layer)
        return _of_sample(self.seen[layer], index, steps)

    def _asked(self, ctx: Context) -> Int[Tensor, " column"]:
        """Columns of decode queries; the layers of one pass share the tensor of positions, and so the answer."""
        before = self._columns.get(0)
        if before is None or before[0] is not ctx.positions:
            self._columns[0] = (ctx.positions, self.where.active(ctx).any(0).nonzero().flatten())
        return self._columns[0][1]

    def _work_out(self, layer: int) -> None:
        """The rows that wait, against the keys seen last, which hold those of all their passes in the same places."""
        waiting = self._waiting.pop(layer, [])
        if not waiting:
            return
        x, ctx = self._latest.pop(layer)
        query = torch.cat([row.query for row in waiting], 2)
        visible = torch.cat([_on_keys(row, x.n_keys) for row in waiting], 2)
        late = replace(x, query=query, mask=None, causal=False)
        rows_at_once = max(1, BLOCK_ELEMENTS // (len(query) * x.n_heads * x.n_keys))
        for block in torch.arange(query.shape[2], device=query.device).split(rows_at_once):
            pattern = softmax_rows(late, score_rows(late, rows=block), visible[:, :, block])
            self.seen.setdefault(layer, []).append(_places(best_keys(pattern, self.k).cpu(), ctx))


def _simple(x: AttentionInputs) -> bool:
    """Whether what a row adds to its scores is nothing but a mask of True and False."""
    return x.bias is None and (x.mask is None or x.mask.dtype == torch.bool)


def _appended(before: tuple[int, int], x: AttentionInputs) -> bool:
    """Whether the cache made new keys, longer by this pass's own: so its later tensors hold all, and this one stays.

    Not in a sliding window that is full, nor in a static cache, which writes into one tensor.
    """
    n_keys, place = before
    return x.n_keys == n_keys + x.query.shape[2] and x.key.data_ptr() != place


def _on_keys(row: _Row, n_keys: int) -> Bool[Tensor, "batch _ row key"]:
    """What a row saw, over the keys there are by now."""
    batch, _, n_rows, _ = row.query.shape
    seen = row.query.new_ones(batch, 1, n_rows, row.n_keys, dtype=torch.bool) if row.visible is None else row.visible
    return pad(seen, (0, n_keys - row.n_keys), value=False)


def _places(columns: Int[Tensor, "batch head row k"], ctx: Context) -> Int[Tensor, "batch head row k"]:
    """Places in the sample of these key columns; -1 stays."""
    places = ctx.key_positions[torch.arange(len(columns)).view(-1, 1, 1, 1), columns.clamp_min(0)]
    return places.masked_fill(columns < 0, -1)


def _of_sample(seen: list[Tensor], index: int, steps: int) -> Int[Tensor, "step head k"]:
    return torch.cat([places[index] for places in seen], 1).transpose(0, 1)[:steps]
