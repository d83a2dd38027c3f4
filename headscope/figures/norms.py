"""A figure of norms: how far the states of a few tokens stand out, layer by layer."""

import pandas as pd
import plotly.graph_objects as go

from headscope.errors import UsageError
from headscope.figures.layout import KINDS, QUIET, lay_out, number, plain

_COLOURS = (KINDS["treatment"], KINDS["control"], QUIET)
_SYMBOLS = ("circle", "diamond", "square")


def norm_lines(table: pd.DataFrame, value: str = "residual", *, title: str = "norm by layer") -> go.Figure:
    """A line for each kind of token over the layers, on a logarithmic scale; the dotted line at 1 is the median token.

    The table has a row for each layer and kind, with columns `layer`, `tokens`, the one that `value` names, and `n` if
    known. Kinds without a number in any layer are left out; UsageError where nothing is left.
    """
    missing = [column for column in ("layer", "tokens", value) if column not in table.columns]
    if missing:
        raise UsageError(f"the table has no column {missing[0]!r}; it needs layer, tokens and {value}")
    rows = table[table[value] > 0].sort_values("layer")
    if rows.empty:
        raise UsageError(f"no kind of token has a {value} norm, so there is nothing to draw")
    kinds = list(dict.fromkeys(table["tokens"]))
    if len(kinds) > len(_COLOURS):
        raise UsageError(f"{len(kinds)} kinds of token were given; {len(_COLOURS)} can be told apart")
    lines = [
        _line(rows[rows["tokens"] == kind], kind, value, place)
        for place, kind in enumerate(kinds)
        if (rows["tokens"] == kind).any()
    ]
    figure = lay_out(lines, title, "times that of the median token, dotted", height=340)
    figure.add_hline(y=1, line={"dash": "dot", "width": 1.5, "color": QUIET}, layer="below")
    figure.update_xaxes(title="layer", dtick=max(1, int(rows["layer"].max()) // 12))
    figure.update_yaxes(type="log", title=None)
    figure.update_layout(margin_b=70)
    return figure


def _line(part: pd.DataFrame, kind: str, value: str, place: int) -> go.Scatter:
    counts = [f", n = {n:g}" for n in part["n"]] if "n" in part.columns else [""] * len(part)
    return go.Scatter(
        x=part["layer"].tolist(),
        y=part[value].tolist(),
        mode="lines+markers",
        name=plain(kind),
        showlegend=True,
        line={"color": _COLOURS[place], "width": 2},
        marker={"symbol": _SYMBOLS[place], "size": 8},
        customdata=[number(norm) + n for norm, n in zip(part[value], counts, strict=True)],
        hovertemplate="layer %{x}: <b>%{customdata}</b><extra></extra>",
    )
