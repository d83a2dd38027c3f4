"""What all figures share: one layout, colours that colour-blind readers can tell apart, and text that is only text.

Viridis stands for amounts; kinds of condition have grey and two hues of Okabe and Ito.
"""

import textwrap
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

INK, QUIET, GRID = "#24292f", "#6e7781", "#d8dee4"
ACCENT = "#2f81c7"
KINDS = {"none": QUIET, "treatment": "#d55e00", "control": "#0072b2"}

_FONTS = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
_LINE = 22


def lay_out(traces: list[Any], title: str, subtitle: str, *, height: int) -> go.Figure:
    """A figure in the common layout; title and subtitle are shown as they are, broken to fit a phone."""
    lines, below = ([plain(line) for line in textwrap.wrap(text, 52)] for text in (title, subtitle))
    extra = _LINE * (len(lines) + len(below))
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "automargin": True, "tickfont": {"size": 13}}
    figure = go.Figure(traces)
    figure.update_layout(
        template="none",
        title={
            "text": "<br>".join(lines),
            "subtitle": {"text": "<br>".join(below), "font": {"size": 13}},
            "font": {"size": 17},
            "x": 0,
            "xref": "container",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 14, "l": 10},
        },
        font={"family": _FONTS, "size": 14, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 10, "r": 10, "t": 28 + extra, "b": 10},
        height=height + extra,
        legend={
            "orientation": "h",
            "x": 0,
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
            "itemclick": False,
            "itemdoubleclick": False,
        },
        hoverlabel={"bgcolor": INK, "font": {"size": 14, "color": "white"}, "align": "left"},
        xaxis=axis,
        yaxis=axis,
    )
    return figure


def plain(text: Any) -> str:
    """The text as plotly shows it: titles, names and labels are read as a kind of HTML."""
    return escape(str(text), quote=False)


def number(value: float) -> str:
    """Two decimals, or two digits for what is small."""
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def percent(share: float, decimals: int = 1) -> str:
    """A share of 1 in percent."""
    return f"{100 * share:.{decimals}f} %"


def scale(values: np.ndarray, top: float = 0.0) -> dict[str, Any]:
    """Colours from 0 to the largest value, or to `top` if that is larger; diverging around 0 if some are negative."""
    bar = {"colorbar": {"thickness": 14, "outlinewidth": 0}}
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low < 0:
        reach = max(-low, high)
        return bar | {"colorscale": "RdBu", "zmin": -reach, "zmax": reach}
    return bar | {"colorscale": "Viridis", "zmin": 0.0, "zmax": max(high, top) or 1.0}
