"""Activations of many samples, collected batch by batch and laid out sample by sample without padding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.engine.inputs import AttentionInputs
from headscope.engine.mass import outputs_and_mass
from headscope.errors import UsageError
from headscope.hooks import ROW_SITES, Context, Site, Where


@dataclass(frozen=True)
class Keep:
    """Keeps every activation it is shown, with its place."""

    site: Site
    where: Where
    kept: list[tuple[Tensor, Context]] = field(default_factory=list, compare=False)

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        """Keeps the activation and hands it back."""
        self.kept.append((act.detach(), ctx))
        return act

    def of_sample(self, index: int) -> Float[Tensor, "layer ..."]:
        """What was kept of one sample: [layer query ...], for rows [layer head query key]."""
        layers: dict[int, list[Tensor]] = {}
        for act, ctx in self.kept:
            asked = torch.ones_like(ctx.positions[index]).bool() if ctx.active is None else ctx.active[index].cpu()
            by_row = self.site in ROW_SITES
            mine = _on_all_keys(act[index][:, asked], ctx, index).transpose(0, 1) if by_row else act[index][asked]
            layers.setdefault(ctx.layer, []).append(mine)
        joined = [torch.cat(layers[layer]) for layer in sorted(layers)]
        if not any(len(one) for one in joined):
            raise UsageError(f"nothing was recorded at {self.site!r}: {self.where} names no layer, head or query")
        if len({one.shape for one in joined}) > 1:
            raise UsageError(
                f"layers differ in shape at {self.site!r} ({', '.join(str(tuple(o.shape)) for o in joined)}); "
                "record them one at a time with where=Where(layers=(...,))"
            )
        stacked = torch.stack(joined)
        return stacked.transpose(1, 2) if self.site in ROW_SITES else stacked


def _on_all_keys(rows: Tensor, ctx: Context, index: int) -> Tensor:
    """Rows over the sample's own tokens: padding dropped, keys outside a sliding window given weight 0."""
    places = ctx.key_positions[index]
    real = places >= 0
    total = int(max(places.max(), ctx.positions[index].max())) + 1
    full = rows.new_zeros(*rows.shape[:-1], total)
    full[..., places[real]] = rows[..., real]
    return full


@dataclass(frozen=True)
class MassReader:
    """Attention mass on groups of each sample's tokens, for every head and query, in O(n) memory."""

    where: Where
    groups: Sequence[Sequence[Sequence[int]]]
    """sample -> group -> places in the sample"""
    kept: dict[int, tuple[Tensor, Context]] = field(default_factory=dict, compare=False)

    def read(self, x: AttentionInputs, ctx: Context) -> Float[Tensor, "batch query head d_v"] | None:
        """Works out and keeps the mass in one layer."""
        out, mass = outputs_and_mass(x, membership(self.groups, ctx).to(x.query.device))
        self.kept[ctx.layer] = (mass, ctx)
        return out

    def of_sample(self, index: int) -> Float[Tensor, "layer head query group"]:
        """Mass of one sample, padding dropped."""
        rows = []
        for layer in sorted(self.kept):
            mass, ctx = self.kept[layer]
            rows.append(mass[index][:, ctx.positions[index] >= 0])
        return torch.stack(rows)


def membership(groups: Sequence[Sequence[Sequence[int]]], ctx: Context) -> Float[Tensor, "sample key group"]:
    """1 where a key belongs to a group; `groups` is sample -> group -> places in the sample."""
    members = torch.zeros(*ctx.key_positions.shape, len(groups[0]))
    for i, mine in enumerate(groups):
        for g, places in enumerate(mine):
            members[i, :, g] = torch.isin(ctx.key_positions[i], torch.tensor(list(places)))
    return members


def group_places(
    groups: Mapping[str, str | Sequence[int]], marks: Mapping[str, tuple[int, int]], length: int
) -> list[list[int]]:
    """Token places of each group: those of a mark, or given ones (negative: from the end); UsageError if absent."""
    found = []
    for name, members in groups.items():
        if isinstance(members, str):
            if members not in marks:
                raise UsageError(
                    f"group {name!r} asks for mark {members!r}; the sample has {', '.join(marks) or 'none'}"
                )
            found.append(list(range(*marks[members])))
        else:
            places = [place + length if place < 0 else place for place in members]
            if any(not 0 <= place < length for place in places):
                raise UsageError(f"group {name!r} names places {list(members)}; the sample has {length} tokens")
            found.append(places)
    return found
