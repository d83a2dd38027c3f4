"""Runs interventions over attention rows in blocks and puts the edited heads' outputs back.

The layer's own kernel has already computed `out`. Rows are recomputed exactly for the heads and queries that somebody
asked for, and `out` changes only where an intervention returned something new. In a block, edits of the mask come first,
then edits of the scores, then edits of the pattern; those of one kind in the order given.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headscope.engine.inputs import AttentionInputs
from headscope.engine.rows import head_outputs, of_heads, pattern_rows, score_rows, softmax_rows

BLOCK_ELEMENTS = 2**24
"""Most pattern entries held at once, 64 MB in float32; a block is at least one row."""

Stage = Literal["mask", "scores", "pattern"]


@dataclass(frozen=True)
class RowEdit:
    """One intervention on rows: its heads, the queries it asked for, what of the rows it edits, and the edit itself.

    `edit(rows, columns, active, visible)` gets rows [batch head row key] of exactly these heads: bool for `mask`.
    """

    heads: tuple[int, ...]
    active: Bool[Tensor, "batch query"]
    edit: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    stage: Stage = "pattern"


def edit_rows(
    x: AttentionInputs, out: Float[Tensor, "batch query head d_v"], edits: Sequence[RowEdit]
) -> Float[Tensor, "batch query head d_v"]:
    """`out` with the edits applied in order, each to what the one before it left; `out` itself if nothing changed."""
    result = out
    for found in edited_blocks(x, edits):
        new = head_outputs(found.rows, x, found.chosen).to(out.dtype)
        old = out[:, found.block[:, None], found.heads]
        if result is out:
            result = out.clone()
        result[:, found.block[:, None], found.heads] = torch.where(found.touched.unsqueeze(-1), new, old)
    return result


def edit_pattern(
    x: AttentionInputs, pattern: Float[Tensor, "batch head query key"], edits: Sequence[RowEdit]
) -> Float[Tensor, "batch head query key"]:
    """The same of a pattern that somebody else multiplies with the values; `pattern` itself if nothing changed."""
    result = pattern
    for found in edited_blocks(x, edits):
        place = (slice(None), found.heads[:, None], found.block)
        if result is pattern:
            result = pattern.clone()
        touched = found.touched.transpose(1, 2).unsqueeze(-1)
        result[place] = torch.where(touched, found.rows.to(pattern.dtype), pattern[place])
    return result


def edit_given(rows: Tensor, visible: Tensor, edit: RowEdit) -> Tensor:
    """Rows [batch head query key] of all heads and queries after one edit, the same object if it changed nothing.

    `visible` [batch head query key], its head axis of length 1 where heads agree.
    """
    everyone = torch.arange(rows.shape[1], device=rows.device)
    block = torch.arange(rows.shape[2], device=rows.device)
    touched = torch.zeros(rows.shape[0], len(block), len(everyone), dtype=torch.bool, device=rows.device)
    return _run(rows, visible, [edit], everyone, block, touched)[0]


@dataclass(frozen=True)
class EditedBlock:
    """Pattern rows of some queries after all edits."""

    heads: Int[Tensor, " head"]
    chosen: Int[Tensor, " head"] | None
    """The same; None if they are all heads there are."""
    block: Int[Tensor, " row"]
    """Columns of the queries."""
    rows: Float[Tensor, "batch head row key"]
    touched: Bool[Tensor, "batch row head"]
    """Which rows an intervention changed."""


def edited_blocks(x: AttentionInputs, edits: Sequence[RowEdit]) -> Iterator[EditedBlock]:
    """The blocks in which an intervention changed something."""
    device = x.query.device
    heads = torch.tensor(sorted({head for edit in edits for head in edit.heads}), device=device)
    active = edits[0].active if len(edits) == 1 else torch.stack([edit.active for edit in edits]).any(0)
    columns = active.any(0).nonzero().flatten()
    if not len(heads) or not len(columns):
        return
    chosen = None if len(heads) == x.n_heads else heads
    rows_at_once = max(1, BLOCK_ELEMENTS // (x.query.shape[0] * len(heads) * x.n_keys))
    for block in columns.split(rows_at_once):
        rows, touched = _edited(x, edits, heads, chosen, block)
        if touched.any():
            yield EditedBlock(heads, chosen, block, rows, touched)


def _edited(
    x: AttentionInputs, edits: Sequence[RowEdit], heads: Tensor, chosen: Tensor | None, block: Tensor
) -> tuple[Tensor, Bool[Tensor, "batch row head"]]:
    """Pattern rows of one block after all edits, and which (sample, row, head) were edited at all."""
    by_stage = {stage: [edit for edit in edits if edit.stage == stage] for stage in ("mask", "scores", "pattern")}
    visible = of_heads(x.visible(block), chosen)
    touched = torch.zeros(visible.shape[0], len(block), len(heads), dtype=torch.bool, device=heads.device)
    if not by_stage["mask"] and not by_stage["scores"]:
        rows = pattern_rows(x, chosen, block)
    else:
        if by_stage["mask"]:
            visible = visible.expand(-1, len(heads), -1, -1)
            visible, touched = _run(visible, visible, by_stage["mask"], heads, block, touched)
        scores, touched = _run(score_rows(x, chosen, block), visible, by_stage["scores"], heads, block, touched)
        rows = softmax_rows(x, scores, visible, chosen)
    return _run(rows, visible, by_stage["pattern"], heads, block, touched)


def _run(
    rows: Tensor, visible: Tensor, edits: Sequence[RowEdit], heads: Tensor, block: Tensor, touched: Tensor
) -> tuple[Tensor, Tensor]:
    """The rows after edits of one kind; what they edited is added to `touched` in place."""
    for edit in edits:
        active = edit.active[:, block]
        if len(edit.heads) == len(heads) and active.all():  # the whole block is asked for: no copies
            after = edit.edit(rows, block, active, visible)
            if after is not rows:
                rows = after.to(rows.dtype)
                touched[:] = True
            continue
        mine = active.any(0).nonzero().flatten()
        if not len(mine):
            continue
        which = torch.searchsorted(heads, torch.tensor(edit.heads, device=heads.device))
        before = rows[:, which[:, None], mine]
        seen = visible[:, :, mine] if visible.shape[1] == 1 else visible[:, which[:, None], mine]
        after = edit.edit(before, block[mine], active[:, mine], seen)
        if after is before:
            continue
        rows = rows.clone()
        chosen = active[:, None, mine, None]
        rows[:, which[:, None], mine] = torch.where(chosen, after.to(rows.dtype), before)
        touched[:, mine[:, None], which] |= active[:, mine].unsqueeze(-1)
    return rows, touched
