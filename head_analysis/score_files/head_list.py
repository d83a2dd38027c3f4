"""Heads that a file names without scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from headscope.heads import Head


@dataclass(frozen=True)
class HeadList:
    """The heads a file names, in its order, which may or may not be one of merit; there are no scores to compare."""

    heads: tuple[Head, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def to_dataframe(self) -> pd.DataFrame:
        """A row a head, `place` counted from 0 in the order of the file."""
        return pd.DataFrame(
            {
                "model": self.meta.get("model"),
                "place": range(len(self.heads)),
                "layer": [head.layer for head in self.heads],
                "head": [head.head for head in self.heads],
                "name": [str(head) for head in self.heads],
            }
        )
