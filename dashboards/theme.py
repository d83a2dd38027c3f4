"""Colours of figures and maps that read well on a light and on a dark page."""

from dataclasses import dataclass
from typing import Any, Literal

import plotly.graph_objects as go

from headscope.figures.layout import INK

Mode = Literal["light", "dark"]


@dataclass(frozen=True)
class Palette:
    """`strong` is the colour of large amounts; `ink` reads on the page and on any mix of page and `strong`."""

    ink: str
    quiet: str
    grid: str
    page: str
    strong: str
    choice: str
    mark: str


PALETTES: dict[Mode, Palette] = {
    "light": Palette("#24292f", "#57606a", "#d8dee4", "#ffffff", "#f0a63c", "#d55e00", "#0072b2"),
    "dark": Palette("#e6edf3", "#9ea7b3", "#3a424c", "#0e1117", "#a85f00", "#ff4d4d", "#58a6ff"),
}


def repainted(figure: go.Figure, mode: Mode) -> go.Figure:
    """The figure on the page's own ground: text, grid and whiskers in colours that can be read there."""
    palette = PALETTES[mode]
    painted = go.Figure(figure)
    painted.update_layout(font_color=palette.ink, paper_bgcolor="rgba(0,0,0,0)", autosize=True)
    painted.update_xaxes(gridcolor=palette.grid, zerolinecolor=palette.grid)
    painted.update_yaxes(gridcolor=palette.grid, zerolinecolor=palette.grid)
    painted.for_each_trace(lambda trace: _repaint_bar(trace, palette))
    return painted


def _repaint_bar(trace: Any, palette: Palette) -> None:
    if trace.type == "bar" and trace.error_x.color == INK:
        trace.error_x.color = palette.ink
