"""Tables with numbers as a reader wants them: four decimals, p values that are never shown as 0, nothing for nothing."""

from typing import Any

import pandas as pd


def rounded(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows, numbers to four decimals; `p` and `q` below .001 are said to be that."""
    rows = table.round(4).to_dict("records")
    for row in rows:
        row.update({name: _chance(row[name]) for name in ("p", "q") if name in row})
    return [{str(name): None if value != value else value for name, value in row.items()} for row in rows]


def _chance(p: float) -> str | None:
    if p != p:
        return None
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
