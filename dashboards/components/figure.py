"""A plotly figure on the page's own ground, with its description below it and for screen readers."""

import plotly.graph_objects as go
import streamlit as st

from dashboards.plain import plain
from dashboards.theme import Mode, repainted


def mode() -> Mode:
    """Whether the reader's page is light or dark."""
    return "dark" if st.context.theme.type == "dark" else "light"


def narrow() -> bool:
    """Whether the reader's browser says it is that of a phone."""
    return "Mobi" in (st.context.headers.get("User-Agent") or "")


def show(figure: go.Figure, *, alt: str, key: str) -> None:
    """The figure as wide as the page, and its description."""
    painted = repainted(figure, mode())
    if narrow():
        painted.update_yaxes(tickfont_size=10)
    st.plotly_chart(painted, theme=None, key=key, alt=alt, config={"displayModeBar": False})
    st.caption(plain(alt))
