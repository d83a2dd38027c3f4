"""A prompt token by token, coloured by what is attended to, as a map that can be clicked."""

from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from dashboards.components import address
from dashboards.components.figure import mode, narrow
from dashboards.plain import plain
from dashboards.theme import PALETTES

NAME = "token"
_CLICKED = "clicked"
_LINE, _AROUND = 30, 12


def show(table: pd.DataFrame, *, alt_text: str, key: str) -> None:
    """The map of `attention.token_table`; a click asks for that token's own attention.

    `key` tells the token that attends: an old chart holds on to its last click, and would not tell of the same one again.
    """
    st.altair_chart(
        token_map(table),
        key=f"tokens: {key}",
        on_select=lambda: _take(f"tokens: {key}"),
        selection_mode=_CLICKED,
        alt=alt_text,
    )
    st.caption(plain(alt_text))


def token_map(table: pd.DataFrame) -> alt.LayerChart:
    """The chart alone: cells, the text in them, and a cross where a token is a sink."""
    palette = PALETTES[mode()]
    clicked = alt.selection_point(name=_CLICKED, fields=["place"], toggle=False)
    quiet = alt.Axis(labels=False, ticks=False, domain=False, grid=False, title=None)
    place = {"x": alt.X("column:O", axis=quiet), "y": alt.Y("line:O", axis=quiet)}
    edges = {"query": palette.choice, "needle": palette.mark, "answer": palette.quiet}
    edge = alt.Stroke(
        "kind:N",
        scale=alt.Scale(domain=[*edges, "prompt", "image"], range=[*edges.values(), palette.grid, palette.grid]),
        legend=None,
    )
    cells = (
        alt.Chart(table)
        .mark_rect(cornerRadius=3, cursor="pointer", color=palette.strong)
        .encode(
            **place,
            fillOpacity=alt.FillOpacity(
                "weight:Q", scale=alt.Scale(domain=[0, float(table["weight"].max()) or 1.0], range=[0, 1]), legend=None
            ),
            stroke=edge,
            strokeWidth=alt.condition(alt.datum.kind == "query", alt.value(3), alt.value(1.5)),
            tooltip=[
                alt.Tooltip("text:N", title="token"),
                alt.Tooltip("place:Q"),
                alt.Tooltip("weight:Q", format=".3g"),
                alt.Tooltip("kind:N"),
                alt.Tooltip("sink:N"),
            ],
        )
        .add_params(clicked)
    )
    words = (
        alt.Chart(table)
        .transform_calculate(shown="datum.text + (datum.sink ? ' ✕' : '')")
        .mark_text(fontSize=12, limit=52 if narrow() else 60, color=palette.ink)
        .encode(**place, text="shown:N")
    )
    lines = int(table["line"].max()) + 1
    return (cells + words).properties(height=_AROUND + _LINE * lines).configure_view(stroke=None)


def _take(key: str) -> None:
    state: Any = st.session_state[key]
    picked = state.selection.get(_CLICKED) or []
    if picked and "place" in picked[0]:
        address.put(NAME, str(int(picked[0]["place"])))
