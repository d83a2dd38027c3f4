"""Figures of tables: scores by length and depth, and conditions beside their controls."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from headscope.errors import UsageError
from headscope.figures.layout import INK, KINDS, lay_out, number, plain, scale

_MOST_WRITTEN = 120


def length_depth_map(table: pd.DataFrame, value: str = "score") -> go.Figure:
    """Mean of a column for each length and depth of a needle, the start of the text on top; hover shows n.

    The table has a row for each sample, with columns `length`, `depth` and the one that `value` names.
    """
    _need(table, "length", "depth", value)
    cells = table.groupby(["depth", "length"])[value].agg(["mean", "count"])
    mean, count = (cells[name].unstack("length") for name in ("mean", "count"))
    z = mean.to_numpy(float)
    x, y = ([_short(end) for end in ends] for ends in (mean.columns, mean.index))
    heat = go.Heatmap(
        z=z,
        x=x,
        y=y,
        customdata=count.to_numpy(float),
        hovertemplate="length %{x}, depth %{y}<br><b>%{z:.2f}</b>, n = %{customdata:.0f}<extra></extra>",
        hoverongaps=False,
        xgap=2,
        ygap=2,
        **scale(z, top=1.0),
    )
    about = f"n = {len(table)}, {_range(count.to_numpy())} in a cell"
    figure = lay_out([heat], f"mean {value} by length and depth", about, height=max(180, 110 + 28 * len(y)))
    if z.size <= _MOST_WRITTEN:
        figure.add_trace(_written(z, x, y, heat))
    figure.update_xaxes(title="length", type="category", showgrid=False)
    figure.update_yaxes(title="depth", type="category", autorange="reversed", showgrid=False)
    return figure


def causal_bars(summary: pd.DataFrame, *, title: str = "mean score by condition") -> go.Figure:
    """Mean of each condition with its interval, the baseline on top and its mean as a dotted line.

    The summary has a row for each condition, with columns `condition`, `kind` ("none", "treatment" or "control"),
    `mean`, `low`, `high`, and `n` if known.
    """
    _need(summary, "condition", "kind", "mean", "low", "high")
    strange = [kind for kind in summary["kind"] if kind not in KINDS]
    if strange:
        raise UsageError(f"{strange[0]!r} is not a kind of condition; a kind is one of {', '.join(KINDS)}")
    numbers = dict.fromkeys(("mean", "low", "high"), float)
    rows = summary.astype(numbers).sort_values("kind", key=lambda kinds: kinds != "none", kind="stable")
    names = [plain(condition) for condition in rows["condition"]]
    traces = [_bars(rows[rows["kind"] == kind], kind) for kind in KINDS if (rows["kind"] == kind).any()]
    figure = lay_out(traces, title, "bars are means, whiskers intervals", height=90 + 34 * len(rows))
    for name, mean in zip(names, rows["mean"], strict=True):
        figure.add_annotation(x=1, xref="paper", xanchor="right", y=name, text=number(mean), showarrow=False)
    for mean in rows.loc[rows["kind"] == "none", "mean"][:1]:
        figure.add_vline(x=mean, line={"dash": "dot", "width": 1.5, "color": KINDS["none"]}, layer="below")
    low, high = min(0.0, rows["low"].min()), max(rows["high"].max(), 0.0)
    reach = (high - low) or 1.0
    figure.update_xaxes(range=[low - 0.02 * reach * (low < 0), high + 0.16 * reach])
    # The order is given here, since plotly would sort by trace, which is by kind.
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names, showgrid=False)
    figure.update_yaxes(range=[len(names) - 0.5, -0.5], ticklabelstandoff=6)
    return figure


def _written(z: np.ndarray, x: list[str], y: list[str], heat: go.Heatmap) -> go.Scatter:
    cells = [(x[j], y[i], z[i, j]) for i, j in np.argwhere(np.isfinite(z))]
    middle = (heat.zmin + heat.zmax) / 2
    dark_below = middle if heat.zmin == 0 else -np.inf
    return go.Scatter(
        x=[cell[0] for cell in cells],
        y=[cell[1] for cell in cells],
        mode="text",
        text=[number(cell[2]) for cell in cells],
        textfont={"color": ["white" if cell[2] < dark_below else "black" for cell in cells], "size": 13},
        hoverinfo="skip",
        showlegend=False,
    )


def _bars(part: pd.DataFrame, kind: str) -> go.Bar:
    counts = [f", n = {n:g}" for n in part["n"]] if "n" in part.columns else [""] * len(part)
    ends = [f"[{number(low)}, {number(high)}]" for low, high in zip(part["low"], part["high"], strict=True)]
    whiskers = {
        "type": "data",
        "symmetric": False,
        "array": (part["high"] - part["mean"]).tolist(),
        "arrayminus": (part["mean"] - part["low"]).tolist(),
        "color": INK,
        "thickness": 1.5,
        "width": 5,
    }
    return go.Bar(
        x=part["mean"].tolist(),
        y=[plain(condition) for condition in part["condition"]],
        orientation="h",
        name="nothing edited" if kind == "none" else kind,
        marker={"color": KINDS[kind]},
        width=0.7,
        error_x=whiskers,
        customdata=[end + n for end, n in zip(ends, counts, strict=True)],
        hovertemplate="%{y}: <b>%{x:.2f}</b> %{customdata}<extra></extra>",
    )


def _need(table: pd.DataFrame, *columns: str) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        there = ", ".join(map(str, table.columns)) or "none"
        raise UsageError(f"the table has no column {missing[0]!r}; it needs {', '.join(columns)} and has {there}")
    if table.empty:
        raise UsageError("the table has no rows, so there is nothing to draw; give the table of a finished run")


def _range(counts: Any) -> str:
    low, high = int(np.nanmin(counts)), int(np.nanmax(counts))
    return str(low) if low == high else f"{low} to {high}"


def _short(value: float | int) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.3g}"
