"""Names of attention heads: zero-based, written `L5H3`."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from headscope.errors import UsageError

_FORMS = re.compile(r"[Ll](\d+)[Hh](\d+)|(\d+)[.\-](\d+)")


class Head(NamedTuple):
    """One attention head: layer and query-head index, both counted from zero."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"

    @classmethod
    def parse(cls, value: "Head | str | tuple[int, int]") -> "Head":
        """The head written as `L5H3`, `5.3`, `5-3` or `(5, 3)`; anything else raises UsageError."""
        if isinstance(value, str):
            found = _FORMS.fullmatch(value.strip())
            if found:
                layer, head = (int(part) for part in found.groups() if part is not None)
                return cls(layer, head)
        elif isinstance(value, tuple) and len(value) == 2 and all(isinstance(i, int) and i >= 0 for i in value):
            return cls(*value)
        raise UsageError(f"{value!r} is not a head; write L5H3, 5.3, 5-3 or (5, 3), counting layers and heads from 0")


def parse_heads(values: "str | Iterable[Head | str | tuple[int, int]]") -> tuple[Head, ...]:
    """Distinct heads in the order given, from a list or from text such as `"L5H3, L2H0"`."""
    if isinstance(values, str):
        values = [part for part in re.split(r"[\s,;]+", values) if part]
    return tuple(dict.fromkeys(Head.parse(value) for value in values))
