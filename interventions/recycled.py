"""Recycled attention (Xu et al. 2024, arXiv 2411.05787): now and then a full step chooses the keys of the steps after it.

While an answer is decoded, every `every`-th step attends to all keys, and its attention chooses the `keep` keys that get
most of it, for every key head and layer: heads that share a key head choose together, by the sum of their attention (what
the paper's code adds up is not confirmed). The steps in between see these and all keys since; for every key since, the
lowest of the chosen goes, so that the number stays at `keep`. The mask is edited: rows sum to one over the keys that are
left, and no key is gone for good. The prompt is read in full, and its last token, whose logits choose the first token of
the answer, is the first full step. The paper's variant that takes a full step when queries turn is not here.

Nothing is saved: full attention is there to be compared with. What was chosen belongs to one prompt and its answer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headscope.bridge_hooks import ForBridges
from headscope.engine.inputs import AttentionInputs
from headscope.engine.rows import pattern_rows
from headscope.errors import UsageError
from headscope.hooks import Context, Site, Where
from headscope.model import HookedModel
from headscope.prompting import Prompt


@dataclass(frozen=True)
class RecycledAttention(ForBridges):
    """Decoding with `keep` keys a key head, chosen anew at every `every`-th step, in all layers or the given ones.

    The paper is reported to take 50 steps and 4096 keys for retrieval, 10 steps for plain text. UsageError for fewer keys
    than steps, since new tokens alone would exceed them. Not for beam search, which reorders the cache.
    """

    keep: int = 4096
    every: int = 50
    layers: tuple[int, ...] | None = None

    def __init__(self, keep: int = 4096, every: int = 50, *, layers: Iterable[int] | None = None) -> None:
        for name, value in (("keep", keep), ("every", every), ("layers", None if layers is None else tuple(layers))):
            object.__setattr__(self, name, value)
        if every < 1 or keep < every:
            raise UsageError(
                f"{keep} keys are to be kept and chosen anew every {every} steps; give at least 1 step, and at least as "
                "many keys as steps"
            )

    def prepared(self, model: HookedModel) -> "RecycledAttention":
        """Itself; UsageError if the model lacks one of the layers."""
        model.validate(_HideOthers(self, {}))
        return self

    def begin(self, prompt: Prompt) -> Sequence[Any]:
        """Chooses keys in full steps and hides the others in the steps between."""
        chosen: dict[int, _Chosen] = {}
        return [_ChooseKeys(self, chosen), _HideOthers(self, chosen)]


class _Choice(NamedTuple):
    """What one full step chose."""

    place: Tensor
    """[sample] of the query, -1 in samples for which the step was not a full one."""
    rank: Tensor
    """[sample kv_head place]: 0 for the key of largest mass."""


class _Chosen(NamedTuple):
    """What is in force in one layer: the latest choice of the calls before, and those of the running call."""

    first: Tensor
    """[sample] place of the query that chooses the answer's first token."""
    group_size: int
    choices: list[_Choice]


@dataclass(frozen=True)
class _ChooseKeys:
    recycled: RecycledAttention
    chosen: dict[int, _Chosen] = field(compare=False)

    @property
    def where(self) -> Where:
        return Where(layers=self.recycled.layers)

    def read(self, x: AttentionInputs, ctx: Context) -> None:
        decode = ctx.decode & (ctx.positions >= 0)
        if not decode.any():
            return
        before = self.chosen.get(ctx.layer)
        first = torch.where(decode, ctx.positions, ctx.positions.max()).amin(1) if before is None else before.first
        full = decode & ((ctx.positions - first[:, None]) % self.recycled.every == 0)
        choices = [] if before is None else before.choices[-1:]
        for column in full.any(0).nonzero().flatten().tolist():
            rows = pattern_rows(x, None, torch.tensor([column], device=x.query.device))
            mass = rows[:, :, 0].unflatten(1, (-1, x.group_size)).sum(2)
            place = torch.where(full[:, column], ctx.positions[:, column], -1)
            choices.append(_Choice(place, _ranks(mass, ctx.key_positions.to(mass.device))))
        self.chosen[ctx.layer] = _Chosen(first, x.group_size, choices)


def _ranks(mass: Tensor, places: Tensor) -> Tensor:
    """The rank of every place by the mass on it; places without a key in the call come last."""
    index = places[:, None].expand_as(mass)
    by_place = mass.new_full((*mass.shape[:2], int(places.max()) + 2), -1.0)
    by_place.scatter_(2, torch.where(index < 0, by_place.shape[2] - 1, index), mass)  # the last one takes padding
    return by_place[..., :-1].argsort(dim=-1, descending=True, stable=True).argsort(-1)


@dataclass(frozen=True)
class _HideOthers:
    recycled: RecycledAttention
    chosen: dict[int, _Chosen] = field(compare=False)
    site: Site = "mask"

    @property
    def where(self) -> Where:
        return Where(layers=self.recycled.layers, phase="decode")

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        _, group_size, choices = self.chosen[ctx.layer]
        seen = act
        for choice in choices:
            since = (ctx.positions - choice.place[:, None]).to(act.device)
            mine = (choice.place[:, None].to(act.device) >= 0) & (since > 0) & (since < self.recycled.every)
            if not mine.any():
                continue
            left = (self.recycled.keep - since)[:, None, :, None]
            kept = (_rank_of(choice, ctx, act.device)[:, :, None] < left).repeat_interleave(group_size, 1)
            new = (ctx.key_positions > choice.place[:, None]).to(act.device)[:, None, None]
            seen = torch.where(mine[:, None, :, None], seen & (kept | new), seen)
        return seen


def _rank_of(choice: _Choice, ctx: Context, device: torch.device) -> Tensor:
    """[sample kv_head key]; keys that came after the choice are told by their place, not by this."""
    places = ctx.key_positions.to(device)[:, None].expand(-1, choice.rank.shape[1], -1)
    return choice.rank.to(device).gather(2, places.clamp(0, choice.rank.shape[2] - 1))
