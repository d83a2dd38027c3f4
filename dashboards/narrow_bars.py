"""Bars of conditions on a narrow screen: long names in several lines, so that the bars keep their room."""

import textwrap

import plotly.graph_objects as go

_WIDEST = 20
_LINE = 15
"""Height of a line of a name."""
_ROOM = 0.15
"""More room for the numbers behind the bars, as a share of the axis."""


def with_short_lines(figure: go.Figure) -> go.Figure:
    """A figure of `causal_bars` with its names broken between words, and as much higher."""
    names = [str(name) for name in figure.layout.yaxis.categoryarray or ()]
    lines = [textwrap.wrap(name, _WIDEST, break_long_words=False) or [""] for name in names]
    broken = go.Figure(figure)
    broken.update_yaxes(tickmode="array", tickvals=names, ticktext=["<br>".join(one) for one in lines])
    extra = len(lines) * _LINE * max(0, max(map(len, lines), default=1) - 2)
    low, high = figure.layout.xaxis.range
    broken.update_xaxes(range=[low, high + _ROOM * (high - low)])
    broken.update_layout(height=figure.layout.height + extra)
    return broken
