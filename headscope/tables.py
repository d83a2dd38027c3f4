"""Tables as HTML that a screen reader can read: a caption, headings with a scope, all text escaped."""

from html import escape
from typing import Any

import pandas as pd


def html_table(table: pd.DataFrame, caption: str = "") -> str:
    """The table without its index; numbers to four digits and to the right, a dash for what is missing."""
    right = [pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind) for kind in table.dtypes]
    head = _row(table.columns, right, 'th scope="col"', "th")
    body = "\n".join(_row(row, right, "td", "td") for row in table.itertuples(index=False, name=None))
    title = f"<caption>{escape(caption)}</caption>\n" if caption else ""
    return f"<table>\n{title}<thead>\n{head}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _row(values: Any, right: list[bool], opening: str, closing: str) -> str:
    style = [' style="text-align:right"' if numeric else ' style="text-align:left"' for numeric in right]
    cells = (f"<{opening}{s}>{escape(_text(v))}</{closing}>" for v, s in zip(values, style, strict=True))
    return f"<tr>{''.join(cells)}</tr>"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "–" if value != value else _number(value)
    return "–" if value is None or value is pd.NA or value is pd.NaT else str(value)


def _number(value: float) -> str:
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:#.4g}".removesuffix(".")
