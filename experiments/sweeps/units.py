"""What a sweep takes out at once: single heads, pairs, layers, or groups given by name."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from headscope.errors import UsageError
from headscope.heads import Head, parse_heads

Kind = Literal["heads", "pairs", "layers"]


@dataclass(frozen=True)
class Unit:
    """Heads that are ablated together, and the name of the result."""

    name: str
    heads: tuple[Head, ...]

    @property
    def first(self) -> int:
        """The lowest layer that is touched."""
        return min(head.layer for head in self.heads)


def units(heads: Sequence[Head], kind: Kind = "heads") -> tuple[Unit, ...]:
    """Each head, each pair of heads, or all heads of each layer."""
    if not heads:
        raise UsageError("no heads are given to ablate; name some, or leave the choice out to take all")
    if kind == "heads":
        return tuple(Unit(str(head), (head,)) for head in heads)
    if kind == "pairs":
        return tuple(Unit(f"{a}+{b}", (a, b)) for a, b in combinations(heads, 2))
    layers = sorted({head.layer for head in heads})
    return tuple(Unit(f"layer {layer}", tuple(h for h in heads if h.layer == layer)) for layer in layers)


def groups(named: Mapping[str, str | Iterable[Head | str]]) -> tuple[Unit, ...]:
    """Groups of heads under the names given; UsageError for an empty one."""
    found = tuple(Unit(name, parse_heads(heads)) for name, heads in named.items())
    empty = [unit.name for unit in found if not unit.heads]
    if empty:
        raise UsageError(f"group {empty[0]!r} names no head; write for example L2H5,L3H0")
    return found
